"""The metadata mirror's legs, looked at and harmed from outside the store."""

from pathlib import Path

from appliance import config, wait
from appliance.host import md
from appliance.run import Runner
from appliance.store import mirror
from appliance.store.machine import Machine

STATE = Path("/var/lib/hatchery")
NEWS = "news"


def look() -> dict[str, object]:
    """The running mirror: its device, each leg's state, its backlog, whether it is degraded."""
    array = mirror.running(Machine(config.load()))
    return {
        "device": str(array.device.path),
        "backlog": array.backlog,
        "degraded": array.degraded,
        "legs": {member.name: sorted(member.state) for member in array.members},
    }


def fast_leg() -> str:
    """The leg on NVMe."""
    legs = mirror.observe(Machine(config.load())).fast
    if not legs or legs[0].device is None:
        raise AssertionError("the NVMe leg is missing")
    return legs[0].device


def slow_leg() -> str:
    """The leg on the backend; only while the backend runs."""
    leg = mirror.observe(Machine(config.load())).slow.device
    if leg is None:
        raise AssertionError("the backend leg is missing")
    return leg


def lose_fast_leg() -> None:
    """The NVMe leg is thrown out, as when the drive fails for a moment; it keeps its old content."""
    array = mirror.running(Machine(config.load()))
    Runner().run(["mdadm", "--manage", array.device.path, "--fail", fast_leg()])


def write_news(text: str) -> None:
    """Something new in the state file system, on whatever legs there are."""
    (STATE / NEWS).write_text(text, encoding="ascii")
    Runner().run(["sync", "-f", STATE / NEWS])


def read_news() -> str:
    """What the state file system says; empty if nothing."""
    file = STATE / NEWS
    return file.read_text(encoding="ascii") if file.exists() else ""


def start_alone(leg: str) -> str:
    """Do what must never be done: start the mirror from one leg. Returns what its state file system says."""
    run = Runner().run
    run(["mdadm", "--assemble", "--run", "/dev/md/alone", leg], timeout=30)
    device = Path("/dev/md/alone").resolve()
    try:
        run(["partx", "--update", device], check=False)
        part = Path(f"{device}p2")
        wait.until(part.exists, f"{part}", deadline=10)
        at = Path("/run/lab/alone")
        at.mkdir(exist_ok=True)
        run(["mount", "-o", "noload,ro", part, at])
        file = at / NEWS
        said = file.read_text(encoding="ascii") if file.exists() else ""
        run(["umount", at])
        return said
    finally:
        run(["mdadm", "--stop", device], check=False)


def set_backlog(sectors: int) -> None:
    """Let the slow leg lag behind, on the array as it runs."""
    array = mirror.running(Machine(config.load()))
    (array.device.sysfs / "md/bitmap/backlog").write_text(str(sectors), encoding="ascii")


def whole() -> None:
    """Wait until both legs are in sync."""

    def both() -> bool:
        array = mirror.running(Machine(config.load()))
        return array.degraded == 0 and sum(member.working for member in array.members) == 2

    wait.until(both, "the mirror to be whole", deadline=60)


def legs_agree() -> bool:
    """Whether both legs hold the same, byte for byte, where their data is (after 1 MiB); of a mirror at rest."""
    words = ["cmp", "--ignore-initial=1048576:1048576", fast_leg(), slow_leg()]
    return Runner().run(words, check=False).returncode == 0


def started() -> list[str]:
    """Arrays that run and can be read."""
    return sorted(array.device.name for array in md.arrays() if array.running)
