"""Those who use a clone while something happens to the appliance, and when it is back."""

import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.client import Client
from appliance.schema import Counters
from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.site import NBD_PORT, Site
from tests.kernel.inside import fio_guest
from tests.tier import require

KEPT_AT = 1 << 30
"""A place on the clone's disk, in bytes, where the guest's system has nothing."""

WRITTEN_AT = KEPT_AT + (4 << 20)
"""Another one, where somebody writes while the appliance starts anew."""

VERIFIED_AT = KEPT_AT + (64 << 20)
"""And one for a guest's fio."""


def serves(site: Site) -> None:
    """Wait until hatcheryd is ready; all has come back by itself."""

    def ready() -> bool:
        done = site.vm.ssh(["systemctl", "is-active", "hatcheryd.service"], check=False)
        return done.stdout.strip() == "active"

    until(ready, "hatcheryd", deadline=300, interval=2)
    assert site.failed_units() == ""


INDEX_DELAY = 30.0
"""Seconds within which bcache writes what a read miss added to its index (drivers/md/bcache/btree.c, 30 * HZ)."""


def await_index(site: Site) -> None:
    """Wait until the cache's index is on its drive: nothing was added to it for as long as bcache may hold it back."""
    last: list[tuple[float, str]] = []

    def still() -> bool:
        written = site.vm.ssh(["sh", "-c", "cat /sys/fs/bcache/*/cache0/btree_written"]).stdout
        if not last or written != last[0][1]:
            last[:] = [(time.monotonic(), written)]
        return time.monotonic() - last[0][0] > INDEX_DELAY + 1

    until(still, "bcache to write its index", deadline=300, interval=2)


def backend_bytes(api: Client, clone: str, work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that were read from the clone, and from the backend, while ``work`` ran."""
    before: Counters = api.counters()
    work()
    after = api.counters()
    return (
        after.clones[clone].read_bytes - before.clones[clone].read_bytes,
        after.backend.read_bytes - before.backend.read_bytes,
    )


def qemu_io(site: Site, clone: str, *commands: str) -> str:
    """Commands of qemu-io(1) on a clone, as its client has it; what they printed."""
    target = f"nbd://{LOOPBACK}:{site.vm.port(NBD_PORT)}/{clone}"
    said = site.runner.run(["qemu-io", "-f", "raw", target], stdin="\n".join(commands), timeout=600).stdout
    assert "failed" not in said, said
    return said


@contextmanager
def writing(site: Site, clone: str) -> Iterator[None]:
    """Somebody writes, flushes and verifies all the time, by QEMU's client as guests have it, and sees no error."""
    server = {"type": "inet", "host": LOOPBACK, "port": str(site.vm.port(NBD_PORT))}
    disk = {"driver": "nbd", "server": server, "export": clone, "reconnect-delay": 600}
    image = f"json:{json.dumps({'driver': 'raw', 'file': disk})}"
    with tempfile.TemporaryFile() as said:
        guest = site.runner.start(["qemu-io", image], stdin=subprocess.PIPE, stdout=said, stderr=said)
        told, over = guest.popen.stdin, threading.Event()
        assert told is not None

        def work() -> None:
            number = 0
            while not over.is_set():
                number = number % 250 + 1
                place = f"-P {number} {WRITTEN_AT + number * 65536} 64k"
                told.write(f"write -q {place}\nflush\nread -q {place}\n".encode())
                told.flush()
            told.close()

        worker = threading.Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            over.set()
            # What waits in the pipe is done first.
            status = guest.wait(900)
            worker.join()
        said.seek(0)
        words = said.read().decode(errors="replace")
    assert (status, "rror" in words, "failed" in words) == (0, False, False), words


@contextmanager
def verifying(site: Site, clone: str) -> Iterator[None]:
    """A guest's fio writes many blocks at a time and verifies them, past the end of this, and sees no error."""
    require(shutil.which("fio"), "fio is needed: run script/bootstrap")
    server = {"type": "inet", "host": LOOPBACK, "port": str(site.vm.port(NBD_PORT))}
    disk = {"driver": "nbd", "node-name": "disk", "server": server, "export": clone, "reconnect-delay": 600}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        socket, pid, out = (Path(folder, name) for name in ("disk.sock", "disk.pid", "fio.json"))
        with site.runner.start(fio_guest.serving(disk, socket, pid), stdout=said, stderr=said):
            until(pid.exists, "the guest's disk", deadline=30)
            with site.runner.start(fio_guest.load(socket, out, VERIFIED_AT), stdout=said, stderr=said) as fio:
                fio_guest.advance(0, pid)
                yield
                assert fio.running()
                fio_guest.advance(fio_guest.progress(pid), pid)
                fio.signal(signal.SIGINT)
                fio.wait(300)
        found = fio_guest.result(out)
    assert found["error"] == 0, found
    assert min(found["reads"], found["writes"]) > 100, found
