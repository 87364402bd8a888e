"""Another NBD server inside the lab, as slow as a test wants it, and what is left of fetching from it."""

import hashlib
import time
from pathlib import Path

from appliance import wait
from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.bootset.file import BootSetFile
from appliance.client import connect
from appliance.errors import CommandFailed
from appliance.host import nbd
from appliance.host.dm import Dm
from appliance.model import KIB, MIB, Extent
from appliance.run import Runner
from appliance.store.names import parse_layer
from tests.kernel.inside.service import IMAGE_MIB, content

PORT = 10999
DISK = Path("/run/far.raw")
RATE, PID = Path("/run/far.rate"), Path("/run/far.pid")

SLOWEST, SLOW, FAST = "512k", "8M", "10G"
"""Bits in a second. At the slow rate, all of the disk takes 25 seconds."""


def serve(rate: str = SLOW) -> str:
    """Serve ``content()`` read-only; its URI."""
    if not DISK.exists():
        DISK.write_bytes(content())
    RATE.write_text(rate)
    words: list[str | Path] = ["nbdkit", "--readonly", "--port", str(PORT), "--ipaddr", "127.0.0.1", "--pidfile", PID]
    Runner().run([*words, "--filter=rate", "file", DISK, f"rate-file={RATE}", f"rate={rate}"])
    return f"nbd://127.0.0.1:{PORT}/disk"


def hurry(rate: str = FAST) -> None:
    """Let the server go as fast as it can, or so fast; those who wait for their turn have it soon."""
    RATE.write_text(rate)


def hang(stopped: bool) -> None:
    """Let the server answer nothing, as one that lost its power; or go on."""
    Runner().run(["kill", "-STOP" if stopped else "-CONT", PID.read_text().strip()])


def away() -> None:
    """Kill the server."""
    Runner().run(["kill", "-9", PID.read_text().strip()])


def view(name: str) -> dict[str, object]:
    """A template."""
    with connect() as api:
        return api.template(name).model_dump(mode="json")


def whole(name: str) -> dict[str, object]:
    """Wait until all of a template is here."""
    wait.until(lambda: view(name)["state"] == "ready", f"template {name} to be whole", deadline=120)
    return view(name)


def reached(name: str, least: int) -> int:
    """Wait until so many bytes of a template are here; how many there are."""

    def found() -> int:
        with connect() as api:
            fetch = api.template(name).fetch
        return 0 if fetch is None else fetch.done_bytes

    return wait.until(lambda: found() if found() >= least else 0, f"{least} bytes of {name}", deadline=120)


def told(words: str) -> str:
    """Wait until a problem that contains some words is told of."""

    def found() -> str:
        with connect() as api:
            return next((each.what for each in api.status().problems if words in each.what), "")

    return wait.until(found, f"a problem with {words!r}", deadline=60)


def problems() -> list[str]:
    """What an operator is told of."""
    with connect() as api:
        return [each.what for each in api.status().problems]


def steps() -> list[str]:
    """What a reconciliation would do."""
    with connect() as api:
        return [f"{step.action} {step.target}" for step in api.plan().steps]


def traces() -> dict[str, list[str]]:
    """What is only there while something is fetched: devices, and the kernel's NBD devices."""
    names = [entry.name for entry in Dm().list()]
    layers = [name for name in names if (found := parse_layer(name)) and found[0] in ("fetching", "source")]
    with nbd.Kernel() as kernel:
        return {"dm": sorted(layers), "nbd": [str(device.identifier) for device in kernel.devices()]}


def read(uri: str, offset: int, length: int) -> str:
    """What a client reads: the digest, or the word ``error``; and what it should be is ``expected``'s."""
    target = Path("/run/part.raw")
    options = f"driver=raw,offset={offset},size={length},file.driver=nbd,"
    options += "file.server.type=unix,file.server.path=/run/hatchery/nbd/local/nbd.sock,file.export=" + uri
    try:
        Runner().run(["qemu-img", "convert", "--image-opts", "-O", "raw", options, target], timeout=120)
    except CommandFailed:
        return "error"
    return hashlib.sha256(target.read_bytes()).hexdigest()


def expected(offset: int, length: int) -> str:
    """The digest of a part of ``content()``."""
    return hashlib.sha256(content()[offset : offset + length]).hexdigest()


def expected_with(offset: int, length: int, byte: int) -> str:
    """The digest of ``content()`` after a guest wrote there."""
    data = bytearray(content())
    data[offset : offset + length] = bytes([byte]) * length
    return hashlib.sha256(data).hexdigest()


def timed_read(uri: str, offset: int, length: int) -> tuple[str, float]:
    """As ``read``, and how many seconds it took."""
    began = time.monotonic()
    return read(uri, offset, length), time.monotonic() - began


LAST = (IMAGE_MIB // 2 * MIB, 2 * MIB)
"""The half of the data that comes last."""


def kill_bridge() -> None:
    """Kill what passes the server's disk on."""
    (pid,) = Path("/run/hatchery/nbd").glob("hatchery-source-*/pid")
    Runner().run(["kill", "-9", pid.read_text().strip()])


def nothing_left() -> None:
    """Wait until all that fetching needs is gone."""
    wait.until(lambda: traces() == {"dm": [], "nbd": []}, "the devices of the fetch to go", deadline=60)


def give_boot_set(name: str) -> None:
    """Give a template a boot set: its last data and its first."""
    with connect() as api:
        view = api.template(name)
        found = BootSet((Extent(LAST[0], 1 * MIB), Extent(0, 64 * KIB)), view.size, 3)
        api.import_boot_set(name, file.dump(BootSetFile(view.ref, view.sha256, found)))


def boot_set(name: str) -> tuple[object, ...]:
    """A template's boot set: its places, of how many boots, and whether it is of other content."""
    with connect() as api:
        found = api.boot_set(name)
        return [list(place) for place in found.places], found.runs, found.guessed
