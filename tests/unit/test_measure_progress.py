"""Measurements have a bar, too: boots, guests, and what a replay reads."""

from collections.abc import Callable, Sequence

import pytest

from appliance import progress
from appliance.bootset.trace import Read
from appliance.measure import prepare, replaying, session, storm
from appliance.measure.replay import Replay
from appliance.run import Runner
from tests.unit.measured_appliance import FACTS, MIB, READ, Appliance, appliance
from tests.unit.screen import Screen, screen

__all__ = ["appliance", "screen"]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session, storm, replaying):
        monkeypatch.setattr(module, "facts", lambda *_: FACTS)
    for each in (session, storm):
        monkeypatch.setattr(each, "emulator", lambda _: "QEMU")
        monkeypatch.setattr(each, "drop_host_caches", lambda _: True)
    monkeypatch.setattr(prepare, "LEARN_DEADLINE", 0.0)


def test_boots_one_by_one(appliance: Appliance, screen: Screen) -> None:
    plan = session.Plan("debian-13", runs=2, clones=2, name="m")
    with progress.bar("preparing", often=1.0) as bar:
        session.Session(appliance.api, plan, host=None, runner=Runner(), tell=lambda _: None, bar=bar).run()
    screen.seen("booting clones of debian-13@1", "6/6 boots")


def test_guests_at_once(appliance: Appliance, screen: Screen) -> None:
    with progress.bar("preparing", often=1.0) as bar:
        storm.run(
            appliance.api, storm.Plan("debian-13", clones=3), host=None, runner=Runner(), tell=lambda _: None, bar=bar
        )
    screen.seen("booting clones of debian-13@1", "3/3 guests")


def test_a_replay(appliance: Appliance, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(uris: Sequence[str], reads: Sequence[Read], told: Callable[[int], None]) -> Replay:
        for uri in uris:
            appliance.boot(uri.rpartition("/")[2])
        assert len(reads) == 1
        told(READ)
        return Replay((5.0,) * len(uris), READ * len(uris), len(uris))

    monkeypatch.setattr(replaying, "replay", play)
    plan, reads = replaying.Plan("debian-13", clones=2, trace="a.trace"), (Read(0, READ, 0),)
    with progress.bar("preparing", often=1.0) as bar:
        replaying.run(appliance.api, plan, reads, host=None, runner=Runner(), tell=lambda _: None, bar=bar)
    screen.seen("replaying a.trace", f"{READ / MIB:.1f} MiB of {2 * READ / MIB:.1f} MiB")
