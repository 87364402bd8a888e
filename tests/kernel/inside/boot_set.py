"""A template, a recorded boot of it that is made up, and what prefetching it does. Sizes in bytes."""

import hashlib
import random
import threading
from pathlib import Path
from typing import Any

from appliance import wait
from appliance.bootset.boot_set import merge
from appliance.bootset.extents import pages_read
from appliance.bootset.file import BootSetFile, dump
from appliance.bootset.trace import Read, format_trace
from appliance.client import connect
from appliance.model import KIB, MIB
from appliance.run import Runner
from tests.kernel.inside import service
from tests.kernel.inside.nbd_client import NbdClient
from tests.kernel.inside.volumes import backend_reads, content

MIB_ALL = 24
FILE = Path("/run/debian.boot-set")
TRACE = Path("/run/debian.trace")
_SEED = 5


def reads() -> list[Read]:
    """A boot that reads two thirds of the disk here and there, some of it twice, each in pieces of up to 128 KiB."""
    dice = random.Random(3)
    places = dice.sample(range(MIB_ALL * 4), MIB_ALL * 4 * 2 // 3)
    found = [Read(place * 256 * KIB + dice.randrange(8) * 4 * KIB, dice.randrange(1, 56) * 4 * KIB) for place in places]
    pieces = [
        Read(offset, min(128 * KIB, read.offset + read.length - offset))
        for read in found
        for offset in range(read.offset, read.offset + read.length, 128 * KIB)
    ]
    return [*pieces, *pieces[::7]]


def add_template(name: str = "debian") -> None:
    """Import the template."""
    path = Path(f"/run/{name}.raw")
    path.write_bytes(content(_SEED, MIB_ALL))
    service.add(name, str(path), "raw")
    path.unlink()


def write_file() -> int:
    """The boot set of that boot as a file, learned from the template's own content; its bytes."""
    made = merge([reads()], MIB_ALL * MIB)
    own = hashlib.sha256(content(_SEED, MIB_ALL)).hexdigest()
    FILE.write_text(dump(BootSetFile("debian@1", own, made)), encoding="utf-8")
    return made.total


def boot(clone: str) -> dict[str, int]:
    """Boot a new clone: bytes read from the backend and by the client. Raises AssertionError for wrong content."""
    service.clones(clone, "debian")
    original = content(_SEED, MIB_ALL)
    before = backend_reads()
    total = 0
    with NbdClient(clone) as client:
        for read in reads():
            data = client.read(read.offset, read.length)
            assert data == original[read.offset : read.offset + read.length], f"{clone} reads something else"
            total += read.length
    return {"backend": backend_reads() - before, "client": total}


def settled(ref: str = "debian", *, why: str = "") -> dict[str, Any]:
    """Wait until a prefetch, begun for that reason if one is named, is over: how it went."""

    def over() -> dict[str, Any] | None:
        with connect() as api:
            view = api.template(ref).prefetch
        if view is None or view.state in ("waiting", "running") or why not in view.why:
            return None
        return view.model_dump(mode="json")

    return wait.until(over, f"the prefetch of {ref}", deadline=150, interval=0.1)


def cold() -> int:
    """Empty the cache; bytes read from the backend so far."""
    service.cold()
    return backend_reads()


def hatchery(*words: str) -> str:
    """The command line's answer."""
    return Runner().run(["hatchery", *words], timeout=150).stdout


def write_trace() -> int:
    """That boot as a trace; the bytes that it reads."""
    TRACE.write_text(format_trace(reads(), "made up"), encoding="utf-8")
    return sum(read.length for read in reads())


def pages() -> int:
    """Bytes that it reads, each page counted once."""
    return pages_read(reads(), MIB_ALL * MIB)


def boot_while_it_is_prefetched(clone: str) -> dict[str, int]:
    """Boot a clone of a cold template, and prefetch at the same moment. Bytes that the backend read for both."""
    begin = cold()
    started = threading.Event()

    def prefetch() -> None:
        with connect() as api:
            operation = api.warm("debian")
            started.set()
            api.finish(operation, deadline=150)

    running = threading.Thread(target=prefetch)
    running.start()
    assert started.wait(30)
    found = boot(clone)
    running.join(150)
    assert not running.is_alive()
    return {"backend": backend_reads() - begin, "client": found["client"]}
