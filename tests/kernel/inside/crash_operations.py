"""The operations that are cut: what each needs, does, and leads to."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from appliance import wait
from appliance.model import MIB
from appliance.service import collector, core
from appliance.service.templates import Removing
from appliance.store import emptying
from tests.kernel.inside.crash_box import OTHER, SIZE, Box, State, digest, finish, image


@dataclass(frozen=True, slots=True)
class Operation:
    """``prepare`` makes the same beginning each time, ``after`` says what the state is when ``run`` has ended well.

    ``settle`` is what an operator does after a cut, before all must be in order.
    """

    prepare: Callable[[Box], None]
    run: Callable[[Box], object]
    after: Callable[[State], None]
    settle: Callable[[Box], None] = lambda _: None
    once: bool = False
    """It cannot be undone, so each cut needs disks of its own."""


def _made(state: State, name: str, *, template: str = "base", **more: Any) -> None:
    origin = state["templates"][template][-1]
    fresh = {"template": [template, origin], "kind": "durable", "client": "local", "size": SIZE, "leased": False}
    state["clones"][name] = {**fresh, "content": origin, **more}


def _gone(*clones: str) -> Callable[[State], None]:
    def after(state: State) -> None:
        for name in clones:
            del state["clones"][name]

    return after


def _change(name: str, **more: Any) -> Callable[[State], None]:
    return lambda state: state["clones"][name].update(more)


def _have(name: str, **more: Any) -> Callable[[Box], None]:
    """A clone that was just made, and written to if it is attached."""

    def prepare(box: Box) -> None:
        box.drop(name)
        box.clone(name, **more)
        if more.get("client", "local") is not None:
            box.scribble(name, len(name))

    return prepare


def _have_not(*clones: str) -> Callable[[Box], None]:
    def prepare(box: Box) -> None:
        for name in clones:
            box.drop(name)

    return prepare


def _only_version(name: str) -> Callable[[Box], None]:
    """One version of a template, of which nothing depends."""

    def prepare(box: Box) -> None:
        while len(found := box.service.core.catalog.versions(name)) > 1:
            box.service.templates.remove(found[0].ref)
        if not found:
            box.bring(name, 40)

    return prepare


def _both(*parts: Callable[[Box], None]) -> Callable[[Box], None]:
    def prepare(box: Box) -> None:
        for part in parts:
            part(box)

    return prepare


def _another(name: str, content: Callable[[State], str]) -> Callable[[State], None]:
    """One more version of a template."""
    return lambda state: state["templates"].setdefault(name, []).append(content(state))


def _batch(state: State) -> None:
    for number in (1, 2, 3):
        _made(state, f"lot-{number}")


def _reset(name: str) -> Callable[[State], None]:
    def after(state: State) -> None:
        state["clones"][name]["content"] = state["clones"][name]["template"][1]

    return after


def _last_clone(box: Box) -> None:
    """A retired template with one clone left."""
    box.drop("heir")
    box.bring("retired", 50)
    box.clone("heir", "retired")
    box.service.templates.remove("retired", Removing.WHEN_UNUSED)


def _without(clone: str, template: str) -> Callable[[State], None]:
    def after(state: State) -> None:
        state["clones"].pop(clone, None)
        del state["templates"][template]

    return after


def _lease_ended(box: Box) -> None:
    box.drop("leased")
    box.clone("leased", expires_in=0.001)
    box.scribble("leased", 6)
    wait.until(lambda: box.service.core.catalog.expired_clones(box.service.core.now()), "a lease to end", deadline=5)


@contextmanager
def _everything_is_large() -> Iterator[None]:
    """As if all volumes were so large that they are emptied in pieces, by the collector."""
    with patch.object(core, "SMALL", 0), patch.object(collector, "SMALL", 0), patch.object(emptying, "PIECE", MIB):
        yield


def _garbage(box: Box) -> None:
    """A large clone that was removed, and an orphan in each pool: volumes with something in them."""
    # A cut may have left a clone whose lease has ended: the collection would end it, which is another operation.
    box.drop("leased")
    _have("large")(box)
    with _everything_is_large():
        box.drop("large")
    catalog = box.service.core.catalog
    for name, found in box.service.core.pools.items():
        orphan = catalog.add_garbage(name, "a test", 0.0)
        catalog.drop_garbage([orphan], name, None)
        found.create_thin(orphan)


def _collect(box: Box) -> None:
    with _everything_is_large():
        finish(box.service.collect())
    catalog = box.service.core.catalog
    assert not catalog.garbage(), catalog.garbage()


OPERATIONS: Mapping[str, Operation] = {
    "create": Operation(_have_not("made"), lambda box: box.clone("made"), lambda state: _made(state, "made")),
    "batch": Operation(_have_not("lot-1", "lot-2", "lot-3"), lambda box: box.clone("lot", count=3), _batch),
    "ephemeral": Operation(
        _have_not("quick"),
        lambda box: box.clone("quick", kind="ephemeral"),
        lambda state: _made(state, "quick", kind="ephemeral"),
    ),
    "detached": Operation(
        _have_not("kept"), lambda box: box.clone("kept", client=None), lambda state: _made(state, "kept", client=None)
    ),
    "attach": Operation(
        _have("kept", client=None),
        lambda box: box.service.clones.attach("kept", "local"),
        _change("kept", client="local"),
    ),
    "detach": Operation(
        _have("moved"), lambda box: box.service.clones.detach("moved", force=False), _change("moved", client=None)
    ),
    "move": Operation(
        _both(_have("carried"), lambda box: box.add_client(OTHER)),
        lambda box: box.service.moves.move(["carried"], OTHER, force=False),
        _change("carried", client=OTHER),
    ),
    "remove": Operation(_have("made"), lambda box: box.drop("made"), _gone("made")),
    "remove-ephemeral": Operation(_have("quick", kind="ephemeral"), lambda box: box.drop("quick"), _gone("quick")),
    "reset": Operation(_have("worn"), lambda box: box.service.life.reset("worn", force=False), _reset("worn")),
    "reset-ephemeral": Operation(
        _have("quick", kind="ephemeral"), lambda box: box.service.life.reset("quick", force=False), _reset("quick")
    ),
    "resize": Operation(
        _have("grown"), lambda box: box.service.life.resize("grown", 2 * SIZE), _change("grown", size=2 * SIZE)
    ),
    "promote": Operation(
        _both(_have("worn"), _only_version("golden")),
        lambda box: finish(box.service.life.promote("worn", "golden")),
        _another("golden", lambda state: str(state["clones"]["worn"]["content"])),
    ),
    "promote-ephemeral": Operation(
        _both(_have("quick", kind="ephemeral"), _only_version("golden")),
        lambda box: finish(box.service.life.promote("quick", "golden")),
        _another("golden", lambda state: str(state["clones"]["quick"]["content"])),
    ),
    "import": Operation(
        _only_version("fresh"), lambda box: box.bring("fresh", 60), _another("fresh", lambda _: digest(image(60)))
    ),
    "remove-template": Operation(
        _only_version("doomed"), lambda box: box.service.templates.remove("doomed"), lambda s: _drop(s, "doomed")
    ),
    "last-clone": Operation(_last_clone, lambda box: box.drop("heir"), _without("heir", "retired")),
    "gc": Operation(_garbage, _collect, lambda _: None, settle=_collect),
    "reserve": Operation(
        lambda _: None, lambda box: box.service.release_reserve(), lambda s: s.update(reserve="released"), once=True
    ),
    "lease": Operation(_lease_ended, lambda box: box.service.life.end_leases(), _gone("leased")),
}
"""By name. A new operation of the product is one more line here."""


def _drop(state: State, template: str) -> None:
    del state["templates"][template]


def expected(operation: Operation, before: State) -> State:
    """The state when the operation has ended well."""
    after = deepcopy(before)
    operation.after(after)
    return after
