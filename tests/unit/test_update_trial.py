"""Who is found good: the services, the store's health, and what a failed try leaves for the other slot."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance import schema
from appliance.config import Paths
from appliance.errors import HatcheryError, NotFound, NotReady
from appliance.model import Health, Problem
from appliance.run import Completed, Runner
from appliance.schema import ProblemView
from appliance.service import given_up
from appliance.update import main, plan, slots, trial, version
from appliance.update.record import Record, Trial
from appliance.update.trial import LOGIN, SERVICES, Depth


class Manager(Runner):
    """Answers ``systemctl show``: all units are active but those that are named."""

    def __init__(self, **states: str) -> None:
        super().__init__()
        self.states = {f"{name.replace('_', '-')}.service": state for name, state in states.items()}

    def run(self, argv: Sequence[str | Path], **_: Any) -> Completed:
        assert [str(word) for word in argv[:2]] == ["systemctl", "show"]
        units = [str(word) for word in argv[3:]]
        blocks = [f"Id={unit}\nActiveState={self.states.get(unit, 'active')}\n" for unit in units]
        return Completed((), 0, "\n".join(blocks), "")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(etc=tmp_path / "etc", state=tmp_path / "state", run=tmp_path / "run")


def ask(manager: Runner, paths: Paths) -> tuple[str, ...]:
    return trial.ailments(manager, paths, Depth.TRY, patience=0)


def deploy(paths: Paths) -> None:
    paths.conf_d.mkdir(parents=True)
    (paths.conf_d / "30-store.toml").touch()


def test_an_appliance_that_was_not_deployed_only_has_to_let_one_log_in(paths: Paths) -> None:
    assert ask(Manager(hatcheryd="failed"), paths) == ()
    assert ask(Manager(ssh="failed"), paths) == ("ssh.service is failed",)


@pytest.mark.parametrize("unit", [LOGIN, *SERVICES])
@pytest.mark.parametrize("state", ["failed", "activating", "inactive"])
def test_a_deployed_appliances_services_have_to_run(unit: str, state: str, paths: Paths) -> None:
    deploy(paths)
    name = unit.removesuffix(".service").replace("-", "_")
    assert ask(Manager(**{name: state}), paths) == (f"{unit} is {state}",)


# httpcore leaves the socket of a connection that fails to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_service_that_does_not_answer_is_not_good(paths: Paths) -> None:
    deploy(paths)
    [said] = ask(Manager(), paths)
    assert "cannot be reached" in said


def test_a_manager_that_cannot_be_asked_is_not_good(paths: Paths) -> None:
    class Away(Runner):
        def run(self, argv: Sequence[str | Path], **_: Any) -> Completed:
            raise NotReady(f"cannot run {argv[0]}")

    assert ask(Away(), paths) == ("cannot run systemctl",)


POOL = schema.PoolView(
    health=Health.OK, name="durable", mode="rw", data_used=3, data_total=9, metadata_used=1, metadata_total=2,
    block_bytes=65536, transaction_id=1,
)  # fmt: skip


def status(health: Health = Health.OK, *problems: ProblemView, pool: schema.PoolView | None = POOL) -> schema.Status:
    return schema.Status(
        version="0.1.0",
        kernel="6.12",
        health=health,
        problems=problems,
        store=schema.StoreView(backend=None, meta=None, cache=None, pool=pool),
        clients=(),
        templates=0,
        clones=0,
    )


def test_a_degraded_store_is_good_and_a_failed_one_is_not() -> None:
    weak = ProblemView(severity=Health.DEGRADED, what="a disk is gone", hint="")
    dead = ProblemView(severity=Health.FAILED, what="the array is gone", hint="")
    assert trial.judge(status()) == ()
    assert trial.judge(status(Health.DEGRADED, weak)) == ()
    assert trial.judge(status(Health.FAILED, weak, dead)) == ("the array is gone",)
    assert trial.judge(status(Health.FAILED)) == ("the store has failed",)


def test_a_pool_that_cannot_be_written_to_is_not_good() -> None:
    for mode in ("ro", "out_of_data_space", "Fail"):
        [said] = trial.judge(status(pool=POOL.model_copy(update={"mode": mode})))
        assert said.endswith(f"it is {mode}")
    assert trial.judge(status(pool=None)) == ("the durable pool cannot be looked at",)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Record:
    made = Record(tmp_path / "record")
    monkeypatch.setattr(main, "Record", lambda: made)
    monkeypatch.setattr("appliance.update.slots.running", lambda: version.parse("0.1.1"))
    return made


def run(verb: str, manager: Runner, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(trial, "PATIENCE", 0)
    return main.run(argparse.Namespace(verb=verb), manager, paths)


def test_a_failed_try_leaves_its_reason_and_a_good_one_ends_the_trial(
    record: Record, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.set_trial(Trial("0.1.1", "0.1.0"))
    assert run("trial", Manager(ssh="failed"), paths, monkeypatch) == main.BAD
    assert record.trial() == Trial("0.1.1", "0.1.0", ("ssh.service is failed",))
    assert run("trial", Manager(), paths, monkeypatch) == main.OK
    assert record.trial() is None


def test_another_versions_trial_is_let_alone(record: Record, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Trial("0.2.0", "0.1.1", ("no",))
    record.set_trial(other)
    assert run("trial", Manager(), paths, monkeypatch) == main.OK
    assert run("trial", Manager(ssh="failed"), paths, monkeypatch) == main.BAD
    assert record.trial() == other


def test_what_was_given_up_is_left_for_the_service_and_the_console_until_it_is_dismissed(
    record: Record, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = version.parse("0.1.0"), version.parse("0.1.1")
    seen = slots.Slots(old, (slots.Uki(old), slots.Uki(new, 0, 3)), (), 0)
    monkeypatch.setattr(slots, "boot_folder", lambda _: paths.run)
    monkeypatch.setattr(slots, "observe", lambda _: seen)
    paths.run.mkdir()
    asked: list[Sequence[str | Path]] = []

    class Console(Manager):
        def run(self, argv: Sequence[str | Path], **_: Any) -> Completed:
            asked.append(argv)
            return Completed((), 0, "", "")

    def verb(name: str) -> tuple[Problem, ...]:
        assert run(name, Console(), paths, monkeypatch) == main.OK
        return given_up.problems(paths.given_up)

    assert verb("verdict") == ()
    record.set_trial(Trial("0.1.1", "0.1.0", ("hatcheryd.service is failed",)))
    [problem] = verb("verdict")
    assert problem.severity is Health.DEGRADED
    assert problem.what == "version 0.1.1 was given up, and version 0.1.0 runs: hatcheryd.service is failed"
    assert "--again" in problem.hint
    assert asked == []
    assert verb("dismiss") == ()
    assert [str(word) for word in asked[0]] == ["systemctl", "--no-block", "restart", "hatchery-console.timer"]
    assert (record.trial(), verb("verdict")) == (None, ())
    with pytest.raises(NotFound, match="nothing to dismiss"):
        verb("dismiss")
    # Who went back himself knows why.
    record.set_trial(Trial("0.1.1", "0.1.0", (plan.WENT_BACK,)))
    assert verb("verdict") == ()
    # What was found before a next start is no news after it.
    paths.given_up.write_text("old")
    assert verb("verdict") == ()


def test_asking_by_hand_remembers_nothing(record: Record, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    record.set_trial(Trial("0.1.1", "0.1.0"))
    assert run("self-test", Manager(ssh="failed"), paths, monkeypatch) == main.BAD
    assert record.trial() == Trial("0.1.1", "0.1.0")


def test_an_error_says_what_why_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise HatcheryError("it failed", why="because", hint="do this")

    monkeypatch.setattr(main, "run", refuse)
    assert main.main(["status", "--json"]) == main.REFUSED
    said = capsys.readouterr()
    assert '"why": "because"' in said.out
    assert said.err == "hatchery-update: it failed: because (do this)\n"
