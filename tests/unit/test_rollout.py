"""Updating from another machine: what is asked of the appliance, and how its answers end."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import DeadlineExceeded, InvalidInput, NotFound, NotReady, Refused, Unhealthy
from appliance.rollout import INCOMING, Appliance, Outcome, Url, Wish, check, update
from appliance.run import Completed, Runner

OLD, NEW = "0.1.0", "0.1.1"


class Box(Appliance):
    """An appliance that is asked without a network. ``starts``: what runs after each start, and whether it is good."""

    def __init__(self, *starts: tuple[str, bool], plan: Callable[[], dict[str, Any]] | None = None) -> None:
        super().__init__("root@box", Runner())
        self.starts = list(starts)
        self.number = 0
        self.looks = 0
        self.said: list[str] = []
        self.plan = plan or (lambda: {"steps": [{"action": "write", "target": NEW, "detail": ""}], "restart": True})

    def status(self) -> dict[str, Any]:
        running, good = self.starts[self.number]
        self.looks += 1
        # A trial takes a while; one that fails restarts the machine by itself.
        if not good and self.looks > 2:
            self.looks = 0
            self.number += 1
            raise NotReady("no answer")
        fallen = self.number > 0 and running == OLD
        return {
            "running": running,
            "good": good,
            "next": OLD if fallen else NEW,
            "given_up": "the pool is read-only" if fallen else None,
        }

    def boot_id(self) -> str | None:
        return str(self.number)

    def restart(self) -> None:
        self.said.append("restart")
        self.number, self.looks = self.number + 1, 0

    def send(self, folder: Path, names: Sequence[str]) -> None:
        assert all((folder / name).exists() for name in names)
        self.said.append(f"send {' '.join(names)}")

    def clear(self) -> None:
        self.said.append("clear")

    def ask(self, verb: str, *words: str) -> dict[str, Any]:
        self.said.append(" ".join([verb, *words]))
        return {"version": NEW} if verb == "show" else self.plan()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle.json").write_text(json.dumps({"version": NEW}))
    for name in ("SHA256SUMS", "SHA256SUMS.sig", f"hatchery_{NEW}.efi"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.rollout.INTERVAL", 0)


def test_an_update_ends_when_the_new_version_was_found_good(bundle: Path) -> None:
    box = Box((OLD, True), (NEW, False), (NEW, True))
    done = update(box, Wish(bundle, ("--again",)))
    assert (done.changed, done.before, done.after) == (True, OLD, NEW)
    assert box.said == [
        f"send SHA256SUMS SHA256SUMS.sig bundle.json hatchery_{NEW}.efi",
        f"apply {INCOMING} --again",
        "clear",
        "restart",
    ]


def test_a_fallback_is_an_error_that_says_why(bundle: Path) -> None:
    box = Box((OLD, True), (NEW, False), (NEW, False), (NEW, False), (OLD, True))
    with pytest.raises(Unhealthy, match=r"version 0\.1\.1 was given up") as caught:
        update(box, Wish(bundle))
    assert caught.value.why == "the pool is read-only"


def test_what_runs_and_is_good_is_left_alone(bundle: Path) -> None:
    box = Box((NEW, True))
    assert update(box, Wish(bundle)) == check(box, Wish(bundle)) == Outcome(False, NEW, NEW)
    assert box.said == []


def test_a_trial_that_runs_already_is_waited_for(bundle: Path) -> None:
    box = Box((NEW, False), (NEW, True))
    assert update(box, Wish(bundle)).after == NEW
    assert box.said == []


def test_check_mode_sends_the_description_alone_and_restarts_nothing(bundle: Path) -> None:
    box = Box((OLD, True))
    assert check(box, Wish(bundle)).changed
    assert box.said == ["send bundle.json SHA256SUMS SHA256SUMS.sig", f"check {INCOMING} --no-contents", "clear"]


def test_a_refusal_leaves_nothing_on_the_appliance(bundle: Path) -> None:
    def refuse() -> dict[str, Any]:
        raise Refused("not signed")

    for verb in (check, update):
        box = Box((OLD, True), plan=refuse)
        with pytest.raises(Refused):
            verb(box, Wish(bundle))
        assert box.said[-1] == "clear"


URL = "https://updates.test/latest/"


def test_a_bundle_at_a_url_is_fetched_by_the_appliance() -> None:
    box = Box((OLD, True), (NEW, True))
    assert update(box, Wish(Url(URL), ("--again",))).after == NEW
    assert box.said == [f"show {URL}", f"apply {URL} --again", "restart"]
    box = Box((OLD, True))
    assert check(box, Wish(Url(URL, plain_http=True))).changed
    assert box.said == [f"show {URL} --plain-http", f"check {URL} --plain-http"]
    box = Box((NEW, True))
    assert update(box, Wish(Url(URL))) == check(box, Wish(Url(URL))) == Outcome(False, NEW, NEW)
    assert box.said == [f"show {URL}"] * 2


def test_the_authority_of_a_server_is_sent_along_and_removed(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    with pytest.raises(NotFound, match="is no file"):
        update(Box((OLD, True)), Wish(Url(URL, authority)))
    authority.touch()

    def refuse() -> dict[str, Any]:
        raise Refused("not signed")

    box = Box((OLD, True), plan=refuse)
    with pytest.raises(Refused):
        update(box, Wish(Url(URL, authority)))
    named = f"{URL} --ca {INCOMING}/ca.pem"
    assert box.said == ["send ca.pem", f"show {named}", "clear", "send ca.pem", f"apply {named}", "clear"]


def test_an_appliance_that_stays_away_is_not_waited_for_for_ever(bundle: Path) -> None:
    class Away(Box):
        def boot_id(self) -> str | None:
            return None if "restart" in self.said else "0"

    with pytest.raises(DeadlineExceeded, match="to come back"):
        update(Away((OLD, True), (NEW, True)), Wish(bundle, deadline=0))


def test_what_is_no_bundle_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    box = Box((OLD, True))
    with pytest.raises(NotFound, match="no update bundle"):
        update(box, Wish(tmp_path))
    (tmp_path / "bundle.json").write_text("[]")
    with pytest.raises(InvalidInput, match="no update bundle"):
        update(box, Wish(tmp_path))


class Answering(Runner):
    """A Runner whose programs all answer the same."""

    def __init__(self, stdout: str, stderr: str = "", status: int = 0) -> None:
        super().__init__()
        self.answer = (status, stdout, stderr)
        self.argv: list[str] = []

    def run(
        self, argv: Sequence[str | Path], *, stdin: str = "", timeout: float = 120, check: bool = True
    ) -> Completed:
        assert (stdin, check) == ("", False)
        assert timeout > 0
        self.argv = [str(word) for word in argv]
        return Completed(tuple(self.argv), *self.answer)


def test_an_appliances_errors_come_back_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HATCHERY_SSH_OPTIONS", "-p 2222")
    error = {"code": "refused", "what": "no", "why": "because", "hint": "do"}
    runner = Answering(json.dumps({"error": error}), status=2)
    with pytest.raises(Refused) as caught:
        Appliance("root@box", runner).status()
    assert (caught.value.what, caught.value.why, caught.value.hint) == ("no", "because", "do")
    assert runner.argv[:4] == ["ssh", "-T", "-p", "2222"]
    assert runner.argv[-3:] == ["root@box", "--", "hatchery-update status --json"]


def test_an_appliance_that_does_not_answer_is_not_ready() -> None:
    with pytest.raises(NotReady, match="gave no answer") as caught:
        Appliance("root@box", Answering("", "Connection refused", 255)).status()
    assert "Connection refused" in caught.value.why
    assert Appliance("root@box", Answering("", "", 255)).boot_id() is None
