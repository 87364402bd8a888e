"""The small modules of appliance/host: notify, units, biolatency."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.errors import CannotTell, CommandFailed, NotReady, Unhealthy
from appliance.host import biolatency, files, notify, units
from appliance.model import Histogram
from appliance.run import Completed, Runner


def test_notify_is_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.notify("READY=1", "STATUS=4 clones")
        assert manager.recv(100) == b"READY=1\nSTATUS=4 clones"


def test_notify_knows_abstract_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"hatchery-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.notify("READY=1")


def test_the_watchdog_hears_twice_in_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert notify.watchdog_seconds() is None
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert notify.watchdog_seconds() == 15
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert notify.watchdog_seconds() == 15
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert notify.watchdog_seconds() is None


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("ActiveState=active\nSubState=running\nResult=success\n", "active (running)"),
        ("ActiveState=failed\nSubState=failed\nResult=exit-code\n", "failed (failed), exit-code"),
        ("", "unknown (unknown)"),
    ],
)
def test_units_are_described_in_words(shown: str, words: str) -> None:
    assert units.describe_show(shown) == words


DATA = Path(__file__).parents[1] / "data"

PRINTED = """
Tracing block device I/O... Hit Ctrl-C to end.


disk = nvme0n1\t
     usecs               : count    distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 1        |                                        |
         4 -> 7          : 12       |****************************************|

disk = sda\t
     usecs               : count    distribution
         0 -> 1          : 2        |****************************************|
      4096 -> 8191       : 1        |********************                    |
"""


class Manager(Runner):
    """Answers ``systemctl``; the verbs of ``failing`` fail. A stop leaves what is printed in ``output``."""

    def __init__(self, *failing: str, output: Path | None = None) -> None:
        super().__init__()
        self.failing = set(failing)
        self.output = output
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str | Path], *, check: bool = True, **_: object) -> Completed:
        verb, *rest = map(str, argv[1:])
        self.asked.append((verb, *rest))
        if verb in self.failing and check:
            raise CommandFailed(f"systemctl {verb}", 1, "Job failed.")
        if verb == "stop" and self.output is not None:
            self.output.write_text(PRINTED)
        return Completed((), 3 if verb in self.failing else 0, "", "")


def test_a_unit_that_does_one_thing_and_fails_says_where_to_look() -> None:
    manager = Manager()
    units.run_to_its_end(manager, "hatchery-mend.service", timeout=1)
    assert manager.asked == [("start", "hatchery-mend.service")]
    with pytest.raises(Unhealthy) as caught:
        units.run_to_its_end(Manager("start"), "hatchery-mend.service", timeout=1)
    assert "Job failed" in caught.value.why
    assert "journalctl -u hatchery-mend.service" in caught.value.hint


def test_disks_are_traced_by_a_unit_that_prints_when_it_is_stopped(tmp_path: Path) -> None:
    output = tmp_path / "latencies"
    manager = Manager(output=output)
    counted = biolatency.Biolatency(manager, output).stop()
    assert counted["sda"].counts[:2] == (2, 0)
    assert [words[0] for words in manager.asked] == ["is-active", "stop"]


def test_a_tracer_that_ended_by_itself_counted_nothing_that_can_be_believed(tmp_path: Path) -> None:
    output = tmp_path / "latencies"
    output.write_text(PRINTED)
    with pytest.raises(CannotTell, match="ended by itself"):
        biolatency.Biolatency(Manager("is-active", output=output), output).stop()
    with pytest.raises(CannotTell, match="cannot be read"):
        biolatency.Biolatency(Manager("stop"), output).stop()


def test_where_nothing_can_be_traced_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.host.biolatency.BTF", Path("/usr"))
    monkeypatch.setattr("appliance.host.biolatency.booted_with_systemd", lambda: True)
    biolatency.Biolatency.start(Manager())
    with pytest.raises(NotReady, match="no histograms"):
        biolatency.Biolatency.start(Manager("restart"))
    monkeypatch.setattr("appliance.host.biolatency.booted_with_systemd", lambda: False)
    with pytest.raises(NotReady, match="here"):
        biolatency.Biolatency.start(Manager())


def test_biolatency_is_read_by_disk() -> None:
    assert biolatency.parse(PRINTED) == {
        "nvme0n1": Histogram((0, 1, 12)),
        "sda": Histogram((2, *(0,) * 11, 1)),
    }
    assert biolatency.parse("") == {}


def test_what_the_program_really_prints_is_read() -> None:
    (disk,) = biolatency.parse((DATA / "biolatency/0.31-one-disk.txt").read_text()).items()
    assert disk == ("vda", Histogram((0, 0, 0, 0, 0, 29, 331, 612, 45, 7, 7)))


def test_rows_that_are_no_powers_of_two_are_not_guessed_at() -> None:
    with pytest.raises(CannotTell):
        biolatency.parse("disk = sda\n  10 -> 20 : 3 |***|\n")


def test_histograms_subtract_and_add() -> None:
    assert Histogram((1, 5, 2)) - Histogram((1, 2)) == Histogram((0, 3, 2))
    assert Histogram((1,)) - Histogram((4, 2)) == Histogram((1,)), "a counter that was reset counts from zero"
    assert Histogram((1,)) + Histogram((4, 2)) == Histogram((5, 2))
    assert Histogram((1,), 0.5) + Histogram((4, 2), 0.25) == Histogram((5, 2), 0.75)
    assert Histogram((5, 2), 0.75) - Histogram((1,), 0.5) == Histogram((4, 2), 0.25)
    assert Histogram((5, 2), 0.75) + Histogram() == Histogram((5, 2), 0.75), "no requests took no time"
    assert (Histogram((5, 2), 0.75) + Histogram((1,))).seconds is None, "of one of them nobody knows"
    assert Histogram((1, 2)).total == 3


def test_a_file_is_replaced_and_a_link_in_its_way_is_not_followed(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "server.json", tmp_path / "catalog.db"
    elsewhere.write_text("precious")
    file.symlink_to(elsewhere)
    (tmp_path / "server.new").symlink_to(elsewhere)
    files.replace(file, "new", 0o644)
    assert elsewhere.read_text() == "precious"
    assert not file.is_symlink()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o644)
    assert {path.name for path in tmp_path.iterdir()} == {"server.json", "catalog.db"}
