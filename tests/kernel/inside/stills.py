"""Exports to image files: what they hold, a guest that writes all the time, and what is left."""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from appliance import wait
from appliance.client import connect
from appliance.host.dm import Dm
from appliance.host.storage_daemon import Files
from appliance.model import KIB, MIB
from appliance.run import Runner
from appliance.store.names import parse_layer
from appliance.store.pool import Pool
from tests.kernel.inside.nbd_client import NbdClient

SOCKET = Path("/run/hatchery/nbd/hatchery-stills/nbd.sock")

PIECES = 64
"""Places that the writing guest writes to, one after the other."""

SPREAD = 256 * KIB
"""From one of them to the next: each is in a block of its own."""

_ACKNOWLEDGED = Path("/run/acknowledged")


def digest(path: str, kind: str) -> str:
    """The digest of the disk that an image file holds."""
    if kind == "raw":
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    plain = Path("/run/plain.raw")
    try:
        Runner().run(["qemu-img", "check", "-f", "qcow2", path])
        Runner().run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, plain])
        return hashlib.sha256(plain.read_bytes()).hexdigest()
    finally:
        plain.unlink(missing_ok=True)


def allocated(path: str) -> int:
    """Bytes that a file takes on its disk."""
    return Path(path).stat().st_blocks * 512


def left() -> dict[str, object]:
    """Volumes of both pools, their devices, what is suspended, stills, and whether their daemon runs."""
    dm = Dm()
    names = sorted(entry.name for entry in dm.list() if parse_layer(entry.name) is not None)
    with connect() as api:
        stills, problems = [still.id for still in api.stills()], [each.what for each in api.status().problems]
        steps = [f"{step.action} {step.target}" for step in api.plan().steps]
    return {
        "durable": sorted(Pool.open(dm, "durable").thin_ids()),
        "fast": sorted(Pool.open(dm, "fast").thin_ids()),
        "devices": names,
        "suspended": [name for name in names if dm.info(name).suspended],
        "stills": stills,
        "daemon": Files(SOCKET.parent).pid.exists(),
        "problems": problems,
        "steps": steps,
    }


def write_rounds(name: str) -> None:
    """Write a number to one place after the other, each time a greater one, for as long as this runs."""
    with NbdClient(name) as guest:
        for number in _numbers():
            for piece in range(PIECES):
                guest.write(piece * SPREAD, struct.pack(">Q", number) * 512)
            _ACKNOWLEDGED.write_text(str(number), encoding="ascii")


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield number


def acknowledged(least: int = 0) -> int:
    """The last round that was written whole; waits until that is ``least``."""

    def reached() -> int | None:
        try:
            number = int(_ACKNOWLEDGED.read_text(encoding="ascii") or "0")
        except FileNotFoundError:
            number = 0
        return number if number >= least else None

    return wait.until(reached, f"round {least}", deadline=60)


def rounds(path: str) -> list[int]:
    """The numbers in an image, one for each place. A place whose pages differ is not whole."""
    found = []
    with Path(path).open("rb") as file:
        for piece in range(PIECES):
            file.seek(piece * SPREAD)
            words = struct.unpack(">512Q", file.read(4096))
            assert len(set(words)) == 1, f"place {piece} is torn: {sorted(set(words))}"
            found.append(words[0])
    return found


def begin(name: str) -> str:
    """Have a still of a clone made, and leave it."""
    with connect() as api:
        return api.still_of_clone(name).id


def read_slowly(identity: str) -> None:
    """Read the beginning of a still, and stay connected for as long as this runs."""
    with NbdClient(identity, SOCKET) as reader:
        reader.read(0, MIB)
        Path("/run/reading").write_text(identity, encoding="ascii")
        wait.until(lambda: None, "the end of the test", deadline=600)


def reading() -> None:
    """Wait until somebody reads a still."""
    wait.until(lambda: Path("/run/reading").exists(), "a reader", deadline=30)


def write_refused(identity: str) -> str:
    """What a writer of a still is told."""
    with NbdClient(identity, SOCKET) as writer:
        try:
            writer.write(0, bytes(4096))
        except OSError as error:
            return error.strerror or str(error)
    return "it was written"


def wait_ended() -> None:
    """Wait until there are no stills, which takes a minute when nobody says so."""

    def none() -> bool:
        with connect() as api:
            return not api.stills()

    wait.until(none, "the end of all stills", deadline=100)


def hold(name: str) -> None:
    """Suspend a device, as hatcheryd does for a snapshot, and let nobody resume it."""
    Dm().suspend(name)


def small_folder(path: str, mib: int) -> None:
    """A folder with so much space."""
    Path(path).mkdir()
    Runner().run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", path])


def files(path: str) -> list[str]:
    """Names of all files in a folder."""
    return sorted(found.name for found in Path(path).iterdir())
