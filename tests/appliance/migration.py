"""A guest that migrates between two QEMU processes on this machine, as it would between two hypervisor hosts.

QEMU tells by events how far a migration is (QEMU: docs/devel/migration/main.rst; qapi/migration.json, MIGRATION).
"""

import base64
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import HatcheryError
from appliance.host.qmp import Qmp
from appliance.measure import qemu
from appliance.measure.guest import FAULTS, PROMPT, NbdTarget
from appliance.run import Completed, Runner
from appliance.wait import until
from tests.appliance.site import Shell

DEADLINE = 600.0
"""Seconds that QEMU may take to answer, or to tell the next step of a migration, on a busy machine."""

CRAWL, RUN = 256 << 10, 1 << 30
"""Bytes in a second that a migration may send: with the first it takes an hour, with the second it ends soon."""

DOWNTIME = 5000
"""Milliseconds that the guest may stand still for: an emulated one writes to its memory faster than it is sent."""

ENDS = ("completed", "failed", "cancelled")

_BLOCK = 16384
_PROGRAM = f"""\
import hashlib, mmap, os, sys
SIZE = {_BLOCK}
def block(number):
    return hashlib.sha256(b"%d" % number).digest() * (SIZE // 32)
def write():
    disk, number = os.open("kept", os.O_RDWR | os.O_CREAT), 0
    while not os.path.exists("stop"):
        number += 1
        os.pwrite(disk, block(number), number * SIZE)
        os.pwrite(disk, block(number), 0)
        os.fsync(disk)
def check():
    disk, read = os.open("kept", os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, SIZE)
    last = os.fstat(disk).st_size // SIZE - 1
    for place in range(last + 1):
        os.preadv(disk, [read], place * SIZE)
        assert read[:] == block(place or last), place
    print("good:%d" % last)
globals()[sys.argv[1]]()
"""


class Side:
    """The guest's QEMU process on one of the two hosts, and the control connection to it."""

    def __init__(self, name: str, machine: qemu.Machine, qmp: Qmp, folder: Path) -> None:
        self.name = name
        self.machine = machine
        self._qmp = qmp
        self._folder = folder
        self._statuses: list[str] = []

    def ask(self, command: str, **arguments: Any) -> Any:
        """One QMP command; ``a_b`` stands for QEMU's ``a-b``. Raises QmpError."""
        return self._qmp.execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})

    def state(self) -> str:
        """What the machine does, in QEMU's word: ``running``, ``inmigrate``, ``postmigrate``."""
        return str(self.ask("query-status")["status"])

    def writes(self) -> int:
        """Writes that this side has sent to the clone since it started."""
        disks = self.ask("query-blockstats")
        [clone] = [disk for disk in disks if str(disk.get("node-name", "")).startswith("clone-")]
        return int(clone["stats"]["wr_operations"])

    def receive(self) -> Path:
        """Listen for a guest; where."""
        path = self._folder / "incoming.sock"
        self.ask("migrate-incoming", uri=f"unix:{path}")
        return path

    def send(self, where: Path, bandwidth: int) -> None:
        """Begin to send the guest, and wait until its memory is on the way."""
        self._statuses.clear()
        self.ask("migrate-set-parameters", max_bandwidth=bandwidth, downtime_limit=DOWNTIME)
        self.ask("migrate", uri=f"unix:{where}")
        assert self._status("active", *ENDS) == "active", self.report()

    def pace(self, bandwidth: int) -> None:
        """Send it faster or slower from now on."""
        self.ask("migrate-set-parameters", max_bandwidth=bandwidth)

    def sent(self) -> str:
        """How the migration ended, once it has."""
        return self._status(*ENDS)

    def arrived(self) -> None:
        """Wait until the guest runs here."""
        self._qmp.wait_event("RESUME", {})

    def _status(self, *awaited: str) -> str:
        while True:
            status = str(self._qmp.wait_event("MIGRATION", {})["data"]["status"])
            self._statuses.append(status)
            if status in awaited:
                return status

    def report(self) -> str:
        """What helps to understand a failure."""
        said = [f"-- {self.name}: its migration went through {self._statuses or 'nothing'}"]
        try:
            said += [json.dumps(self.ask(question)) for question in ("query-status", "query-migrate")]
        except HatcheryError as error:
            said.append(f"QEMU cannot be asked: {error}; its status is {self.machine.process.popen.poll()}")
        said.append((self._folder / "qemu.log").read_text(errors="replace"))
        said.append(self.machine.console.tail(15))
        return "\n".join(said)


@contextmanager
def running(runner: Runner, name: str, disk: Sequence[str], folder: Path, *, incoming: bool = False) -> Iterator[Side]:
    """A machine with this disk, given as QEMU's words; with ``incoming`` it waits for a guest. It ends with the block.

    Its processor is one: more of them make the emulator fail now and then.
    """
    folder.mkdir()
    control = folder / "qmp.sock"
    words = [
        "-machine", "q35", *qemu.accelerator().words, "-smp", "1", "-m", "1024", "-nodefaults",
        *qemu.firmware(folder).words, *disk,
        "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
        "-qmp", f"unix:{qemu.escape(control)},server=on,wait=off",
        *(["-incoming", "defer"] if incoming else []),
    ]  # fmt: skip
    with (
        qemu.start(runner, words, folder, clock=time.monotonic()) as machine,
        Qmp(control, deadline=DEADLINE) as qmp,
    ):
        side = Side(name, machine, qmp, folder)
        side.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        try:
            yield side
        except Exception:
            print(side.report())
            raise


class Guest:
    """The system on the clone: a session on its console, and a program that writes there all the time.

    The program writes blocks one after the other, and over the first one again and again; what is in them is their
    number's. Each is on the disk before the next one is written.
    """

    def __init__(self, side: Side) -> None:
        """Wait until it has booted on this side, and let the program begin."""
        self._log_in(side.machine)
        coded = base64.b64encode(_PROGRAM.encode()).decode()
        self._run(f"echo {coded} | base64 -d > w.py && sync w.py && truncate -s {_BLOCK} kept")
        self._run("setsid -f flock w.py python3 w.py write > said 2>&1 < /dev/null")
        until(lambda: self.written() > 0, "the guest to write", deadline=DEADLINE, interval=1)

    def follow(self, side: Side) -> None:
        """It has come to this side."""
        self._shell.follow(side.machine)

    def boot(self) -> str:
        """What the kernel calls this run of it."""
        return self._find(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "cat /proc/sys/kernel/random/boot_id")

    def written(self) -> int:
        """The number of the last block."""
        return int(self._find(r"(?<=written:)\d+", f"echo written:$(($(stat -c %s kept) / {_BLOCK} - 1))"))

    def goes_on(self) -> int:
        """Wait until it has written more; the number of the last block."""
        before = self.written()

        def more() -> int | None:
            now = self.written()
            return now if now > before else None

        return until(more, "the guest to write more", deadline=DEADLINE, interval=1)

    def stop(self) -> int:
        """End the program, once what it does is done; the number of the last block."""
        self._run("touch stop && flock w.py cat said && test ! -s said")
        return self.written()

    def check(self) -> int:
        """Read all that was written from the disk, past the guest's memory; the number of the last block."""
        return int(self._find(r"(?<=good:)\d+", "python3 w.py check"))

    def reset(self, side: Side) -> None:
        """Press the reset button and wait until it has booted: nothing of its memory is left."""
        side.ask("system_reset")
        self._log_in(side.machine)

    def _log_in(self, machine: qemu.Machine) -> None:
        machine.console.wait_for(PROMPT, deadline=DEADLINE, faults=FAULTS)
        self._shell = Shell(machine)

    def _run(self, command: str) -> str:
        return self._shell.run(command, deadline=DEADLINE)

    def _find(self, pattern: str, command: str) -> str:
        said = self._run(command)
        found = re.search(pattern, said)
        assert found, said
        return found[0]


def words_for(shown: Sequence[str], target: NbdTarget) -> list[str]:
    """QEMU's words for a disk as the appliance shows them, with the place where this machine finds it, and its keys."""
    found = []
    for word in shown:
        if not word.startswith("{"):
            found.append(word)
            continue
        settings = json.loads(word)
        if "server" in settings:
            settings["server"] |= {"host": target.host, "port": str(target.port)}
        if "tls-creds" in settings:
            settings["tls-hostname"] = target.known_as
        if "dir" in settings:
            settings["dir"] = target.certificates
        found.append(json.dumps(settings))
    return found


def look(runner: Runner, target: NbdTarget, *commands: str) -> Completed:
    """Commands of qemu-io(1) on an export, whatever comes of them."""
    disk = f"driver=nbd,{target.server},export={target.export}"
    words = ["--object", target.objects[1]] if target.objects else []
    return runner.run(
        ["qemu-io", *words, "--image-opts", disk], stdin="\n".join(commands), timeout=DEADLINE, check=False
    )
