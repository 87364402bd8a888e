"""A guest that runs fio with verification: QEMU's own NBD client between, by the words that the appliance shows."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from appliance import wait
from appliance.client import connect
from appliance.errors import HatcheryError
from appliance.run import Runner
from tests.kernel.inside import service

_SOCKET, _PID = Path("/run/guest.sock"), Path("/run/guest.pid")
_OUT = Path("/run/guest-fio.json")
SPAN = "16M"


def start(clone: str) -> list[str]:
    """Start the guest's side of the disk; returns the words to start fio with."""
    with connect() as api:
        words = api.clone(clone).qemu
    blockdev = json.loads(words[words.index("-blockdev") + 1])
    said = Runner().start(serving(blockdev, _SOCKET, _PID))
    wait.until(_PID.exists, "the guest's disk", deadline=30)
    assert said.running()
    return load(_SOCKET, _OUT)


def serving(blockdev: dict[str, Any], socket: Path, pid: Path) -> list[str]:
    """The words that start the guest's side of a disk: what QEMU would have of it, on a unix socket."""
    export = {"type": "nbd", "id": "guest", "node-name": blockdev["node-name"], "name": "disk", "writable": True}
    server = {"addr": {"type": "unix", "path": str(socket)}}
    return [
        *("qemu-storage-daemon", "--pidfile", str(pid)),
        *("--blockdev", json.dumps(blockdev)),
        *("--nbd-server", json.dumps(server)),
        *("--export", json.dumps(export)),
    ]


def load(socket: Path, out: Path, offset: int = 0) -> list[str]:
    """The words that start fio on that, until SIGINT: it writes, and verifies what it wrote."""
    return [
        *("fio", "--name=guest", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={socket}", "--rw=randrw"),
        *("--bs=4k", "--iodepth=8", f"--offset={offset}", f"--size={SPAN}", "--serialize_overlap=1"),
        *("--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", "--verify_state_save=0"),
        *("--time_based", "--runtime=3600", "--output-format=json", f"--output={out}"),
    ]


def kill(client: str) -> None:
    """Kill -9 a client's storage daemon, and wait until another one listens."""
    old = service.daemon_pid(client)
    os.kill(old, signal.SIGKILL)

    def another() -> bool:
        try:
            return service.daemon_pid(client) != old
        except (OSError, ValueError, HatcheryError):
            return False

    wait.until(another, "another storage daemon", deadline=60)


def progress(pid: Path = _PID) -> int:
    """Bytes that the guest has written so far: its side of the disk is asked."""
    return int(Path(f"/proc/{pid.read_text().strip()}/io").read_text().split("wchar: ")[1].split()[0])


def advance(before: int, pid: Path = _PID) -> int:
    """Wait until the guest has got on; how far."""
    wait.until(lambda: progress(pid) > before + 65536, "the guest to go on", deadline=120)
    return progress(pid)


def result(out: Path = _OUT) -> dict[str, int]:
    """What fio found when it was ended: errors, and how many requests."""
    said = out.read_text(encoding="utf-8")
    # It says first that it was ended by a signal.
    (job,) = json.loads(said[said.index("{") :])["jobs"]
    return {"error": job["error"], "reads": job["read"]["total_ios"], "writes": job["write"]["total_ios"]}


def verify(clone: str) -> None:
    """See that the guest's disk can be read to its end."""
    service.qemu_io(f"nbd+unix:///disk?socket={_SOCKET}", f"read 0 {SPAN}")
    os.kill(int(_PID.read_text()), signal.SIGTERM)
    with connect() as api:
        assert api.clone(clone).state == "ready"
