"""The audit log of what changes without the API: the store's commands, the rescue's, the update's, and boot sets."""

import io
import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from appliance import config
from appliance.config import Paths
from appliance.errors import HatcheryError, InUse, InvalidInput, Unhealthy
from appliance.host import audit, journal
from appliance.rescue import main as rescue
from appliance.rescue import repair, restore
from appliance.store import main as store
from appliance.store import remove, scrub, setup, start
from appliance.store.setup import Result
from appliance.update import main as update
from tests.unit.learning_box import boot, learner

Told = list[Mapping[str, str]]
Done = Callable[..., object]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """What the journal would get, of commands of a machine without a store."""
    paths = Paths(etc=tmp_path / "etc", state=tmp_path / "state", run=tmp_path / "run")
    load = config.load
    monkeypatch.setattr(config, "load", lambda: load(paths))
    found: Told = []
    # The rescue's program passes nothing on: the journal's own function is what it calls.
    monkeypatch.setattr(store.main, "__defaults__", (None, None, found.append))
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"secret": "hush"})))
    return found


def the_line(told: Told) -> tuple[str, str, str]:
    [line] = told
    assert (line["SYSLOG_IDENTIFIER"], line["HATCHERY_UID"]) == ("hatchery-audit", str(os.getuid()))
    return line["HATCHERY_COMMAND"], line["HATCHERY_RESULT"], line["HATCHERY_PROBLEM"]


def does(result: object = None) -> Done:
    return lambda *_, **__: result


def fails(error: BaseException) -> Done:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


CHANGED = Result((), "", "")


@pytest.mark.parametrize(
    ("words", "where", "name"),
    [
        (["setup", "store", "--spec", "-", "--json"], setup, "run"),
        (["remove", "--serial", "S1"], remove, "run"),
        (["recreate-fast", "--lose-ephemeral-clones"], start, "recreate_fast"),
        (["up"], start, "up"),
        (["down"], start, "down"),
        (["scrub"], scrub, "run"),
        (["repair"], repair, "run"),
        (["repair", "--yes"], repair, "run"),
        (["restore", "--yes"], restore, "run"),
    ],
)
def test_the_stores_commands_are_written_down(
    words: list[str], where: ModuleType, name: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "parse_spec", does())
    monkeypatch.setattr(where, name, does({setup: CHANGED, remove: CHANGED, scrub: True}.get(where)))
    assert rescue.main(words) == store.OK
    assert the_line(told) == (" ".join(["hatchery-store", *words]), "done", "")
    assert "hush" not in str(told)


@pytest.mark.parametrize("words", [["setup", "store", "--spec", "-", "--check"], ["remove", "--check"], ["restore"]])
def test_what_only_says_what_would_be_done_is_not(
    words: list[str], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "parse_spec", does())
    monkeypatch.setattr(setup, "run", does(CHANGED))
    monkeypatch.setattr(remove, "run", does(CHANGED))
    monkeypatch.setattr(restore, "run", does(False))
    assert rescue.main(words) == store.OK
    assert told == []


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (InUse("the store is in use"), ("refused", "in-use: the store is in use")),
        (InvalidInput("that is no drive"), ("refused", "invalid-input: that is no drive")),
        (Unhealthy("the array has failed"), ("failed", "unhealthy: the array has failed")),
    ],
)
def test_what_went_wrong_says_why(
    error: HatcheryError, result: tuple[str, str], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "run", fails(error))
    assert rescue.main(["repair", "--yes"]) == store.REFUSED
    assert the_line(told)[1:] == result


def test_an_end_that_nobody_expected_is_a_failure(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "up", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        store.main(["up"])
    assert the_line(told) == ("hatchery-store up", "failed", "KeyboardInterrupt")
    told.clear()
    monkeypatch.setattr(start, "down", does(True))
    assert store.main(["down"]) == store.FAILED
    assert the_line(told) == ("hatchery-store down", "failed", "")


def test_sudo_says_who_it_was_and_others_are_not_believed(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    assert audit.commanded("hatchery-store", ["up"], lambda: 0, told.append) == 0
    assert told.pop()["HATCHERY_USER"] == ("alice" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
    monkeypatch.setattr(os, "getuid", lambda: 65534)
    assert audit.commanded("hatchery-store", ["up"], lambda: 0, told.append) == 0
    assert told.pop()["HATCHERY_USER"] == pwd.getpwuid(65534).pw_name
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.delenv("SUDO_USER")
    assert audit.commanded("hatchery-store", ["up"], lambda: 0, told.append) == 0
    program = Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    assert told.pop()["MESSAGE"] == f"root ({program}, process {os.getppid()}): hatchery-store up: done"


@pytest.mark.parametrize("verb", ["apply", "back", "trial"])
def test_the_updates_commands_are_written_down_without_what_opens_a_url(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: Told = []
    monkeypatch.setattr(update, "run", fails(InUse("another update is under way")))
    url = ["https://me:hush@updates.example:8443/1.0?signature=hush#hush"] if verb == "apply" else []
    assert update.main([verb, *url], told.append) == update.REFUSED
    assert "another update is under way" in capsys.readouterr().err
    said = " ".join(
        ["hatchery-update", verb, *(["'https://[left out]@updates.example:8443/1.0?[left out]'"] if url else [])]
    )
    assert the_line(told) == (said, "refused", "in-use: another update is under way")
    assert "hush" not in str(told)


@pytest.mark.parametrize("words", [["check", "folder"], ["show", "folder"], ["status"], ["self-test"], ["verdict"]])
def test_questions_about_updates_are_not(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []
    monkeypatch.setattr(update, "run", does(0))
    assert update.main(words, told.append) == update.OK
    assert told == []


def test_a_boot_set_that_was_learned_by_itself_is_written_down(tmp_path: Path) -> None:
    told: list[tuple[str, ...]] = []
    with learner(tmp_path) as box:
        box.service.events.unasked = lambda *words: told.append(words)
        boot(box, "web")
    assert ("template", "debian@1", "learned", "a boot set of 2097152 bytes from 1 boot(s)") in told


def test_where_there_is_no_journal_the_programs_own_log_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        audit.write("root: something: done", "done", {}, lambda fields: journal.send(fields, tmp_path / "none"))
    assert caplog.messages == ["root: something: done"]
