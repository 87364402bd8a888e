"""The whole appliance held against the rules of its data path, for an operator who asks.

Of some rules a box that runs can show a part only: what was never done leaves no trace. ``UNSEEN`` says which part, and
the tests that prove it instead.
"""

from collections.abc import Callable, Iterable, Mapping

from appliance.errors import HatcheryError, NotReady
from appliance.model import Health, Problem
from appliance.reconcile.volumes import Advance, Delete
from appliance.schema import CheckState, CheckView, Examination, ProblemView, StoreView
from appliance.service import recovery
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.looks import Looks
from appliance.service.ports import Store

RULES: Mapping[int | None, str] = {
    1: "nothing goes past the cache, and its settings are as they must be",
    2: "what is read ahead of boots is sealed",
    3: "new blocks are zeroed",
    4: "there is space, and a full pool answers at once",
    5: "nothing here looks into a clone",
    6: "each clone is offered to its client, and to no other",
    7: "requests that fail while a drive dies are held and sent again",
    8: "the drives of the settings are the store's",
    9: "catalog and pools agree",
    10: "the metadata mirror has a slow leg that is never behind",
    11: "templates that clones are made of are read-only",
    12: "the kernel has the fixes that the store needs",
    13: "discards do not reach the array",
    14: "boot sets are in the cache, whatever was imported",
    15: "ephemeral clones have their drive",
    16: "who works on an uploaded image is confined",
    None: "arrays, cache, drives, storage daemons and backups are well",
}
"""What is looked at, by the rule."""

UNSEEN: Mapping[int | None, str] = {
    2: "that a prefetch refuses what can be written, and reads no clone: tests/kernel/test_rule_02_prefetch.py",
    8: "that drives with foreign content are refused: tests/unit/test_store_disks.py, tests/kernel/test_store_setup.py",
    11: "that a clone is held still for a snapshot of it: tests/unit/test_service_stills.py,"
    " tests/kernel/test_service_stills.py",
    14: "that an import lets what is warm be, and large volumes go in pieces: tests/kernel/test_rule_14_imports.py,"
    " tests/kernel/test_gc.py",
    16: "what hostile images come to, and the unit's rights: tests/kernel/test_hostile_templates.py,"
    " tests/unit/test_images.py",
}
"""What of a rule a box that runs cannot show, and the tests that prove it."""

_SOURCES: Mapping[int, Callable[[StoreView], object]] = {
    1: lambda view: view.cache,
    3: lambda view: view.pool,
    4: lambda view: view.pool,
    10: lambda view: view.meta,
    13: lambda view: view.pool,
}
"""The part of the store that a rule is read from: where it could not be looked at, nothing can be said."""


class Doctor:
    """Looks at all of it when it is asked to."""

    def __init__(self, core: Core, store: Store, exports: Exports, looks: Looks) -> None:
        self._core = core
        self._store = store
        self._exports = exports
        self._looks = looks

    def examine(self, view: StoreView, known: Iterable[Problem]) -> Examination:
        """Every check. ``view`` and ``known`` are what the status has: all that is looked at anyhow."""
        found: dict[int | None, list[Problem] | None] = {rule: [] for rule in RULES}
        seen = {
            **self._store.examine(),
            2: _try(self._looks.read_ahead),
            6: _try(self._offered),
            9: _try(self._agreed),
            11: _try(self._looks.sealed),
            14: _try(self._looks.put_back),
            16: _try(self._looks.confined),
        }
        found |= {rule: None if problems is None else list(problems) for rule, problems in seen.items()}
        found |= {rule: None for rule, source in _SOURCES.items() if source(view) is None}
        for problem in known:
            concerned = problem.rule if problem.rule in RULES else None
            # What is known to be wrong is wrong, whatever else could not be looked at.
            others = found[concerned] or []
            if problem.what not in {other.what for other in others}:
                found[concerned] = [*others, problem]
        return Examination(checks=tuple(_check(rule, what, found[rule]) for rule, what in RULES.items()))

    def _offered(self) -> tuple[Problem, ...]:
        """Each client's daemon has the exports that the catalog gives it, and no others."""
        wrong = []
        with self._core.lock:
            for client in self._core.catalog.clients():
                try:
                    missing, foreign = self._exports.differences(client.name)
                except NotReady:
                    continue  # a daemon that is down offers nothing, and is a problem of its own
                hint = "run `hatchery store reconcile`"
                if foreign:
                    what = f"client {client.name} is offered what is not its own: {', '.join(foreign)}"
                    wrong.append(Problem(Health.FAILED, what, hint, 6))
                if missing:
                    what = f"client {client.name} is not offered {', '.join(missing)}"
                    wrong.append(Problem(Health.DEGRADED, what, hint, 6))
        return tuple(wrong)

    def _agreed(self) -> tuple[Problem, ...]:
        made = recovery.look(self._core)
        # What is to be deleted waits for the collector, and is all right meanwhile.
        steps = [step.describe() for step in made.steps if not isinstance(step, Delete | Advance)]
        hint = "run `hatchery store reconcile`"
        return (
            *(problem for problem in recovery.problems(made) if problem.rule == 9),
            *(Problem(Health.DEGRADED, f"still to be done: {each.action} {each.target}", hint, 9) for each in steps),
        )


def _try(look: Callable[[], tuple[Problem, ...]]) -> tuple[Problem, ...] | None:
    try:
        return look()
    except HatcheryError:
        return None


def _check(rule: int | None, what: str, found: list[Problem] | None) -> CheckView:
    if found is None:
        return CheckView(rule=rule, what=what, state="unknown", problems=(), unseen=UNSEEN.get(rule, ""))
    worst: CheckState = "ok"
    for problem in found:
        if problem.severity is Health.FAILED or worst == "ok":
            worst = problem.severity.value
    shown = tuple(map(ProblemView.of, found))
    return CheckView(rule=rule, what=what, state=worst, problems=shown, unseen=UNSEEN.get(rule, ""))
