"""Booting a guest from a clone over NBD, and the time it takes.

Boot time counts from QEMU's start to the login prompt on the serial console. The guest's page cache is its own and
empty; QEMU reads past the host's (``cache.direct``), so every read that the guest makes reaches the appliance.
"""

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from appliance.errors import InvalidInput
from appliance.measure import qemu
from appliance.measure.credentials import FOLDER
from appliance.run import Runner

PROMPT = "login: "

TLS = "certificate"
"""Id of the certificate's object in QEMU."""

EMULATOR_FAULTS = ("Oops: int3", "Possible timer handling issue")
"""A guest kernel's last words that have been seen under multi-threaded TCG alone: the emulator's fault.

The second one is of a processor whose timer never fires again, so that the guest stands still without an end.
"""

FAULTS = (*EMULATOR_FAULTS, "Kernel panic", "You are in emergency mode", "UEFI Interactive Shell")
"""Texts that say: there will be no login prompt."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The virtual machine that boots the clone."""

    memory_mib: int = 1024
    cpus: int = 2


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot: seconds from QEMU's start to the prompt, and processor seconds that QEMU used in that time."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class NbdTarget:
    """Where QEMU finds a clone: a TCP address or a unix socket, and the export's name.

    ``certificates`` is the folder of the client's certificate where TCP is TLS, else empty; ``known_as`` is what the
    server's certificate says, where that is not ``host``.
    """

    export: str
    host: str = ""
    port: int = 0
    socket: str = ""
    certificates: str = ""
    known_as: str = ""

    @classmethod
    def parse(cls, uri: str) -> "NbdTarget":
        """Read an NBD URI (NetworkBlockDevice/nbd, doc/uri.md), TCP, TLS or unix socket. Raises InvalidInput."""
        parts = urlsplit(uri)
        export = unquote(parts.path.removeprefix("/"))
        if parts.scheme == "nbd" and parts.hostname:
            return cls(export, host=parts.hostname, port=parts.port or 10809)
        options = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.scheme == "nbds" and parts.hostname:
            folder, name = options.get("tls-certificates", str(FOLDER)), options.get("tls-hostname", "")
            return cls(export, parts.hostname, parts.port or 10809, certificates=folder, known_as=name)
        socket = options.get("socket", "")
        if parts.scheme == "nbd+unix" and socket:
            return cls(export, socket=socket)
        raise InvalidInput(
            f"{uri!r} is not an NBD address that can be booted from",
            why="it has no server, or no socket",
            hint="see hatchery clone show",
        )

    @property
    def uri(self) -> str:
        """The same as an NBD URI."""
        if self.socket:
            return f"nbd+unix:///{quote(self.export, safe='')}?socket={quote(self.socket)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = f"{host}:{self.port}/{quote(self.export, safe='')}"
        if not self.certificates:
            return f"nbd://{where}"
        name = f"&tls-hostname={quote(self.known_as, safe='')}" if self.known_as else ""
        return f"nbds://{where}?tls-certificates={quote(self.certificates)}{name}"

    @property
    def server(self) -> str:
        """The server part of a QEMU block device."""
        if self.socket:
            return f"server.type=unix,server.path={qemu.escape(self.socket)}"
        return f"server.type=inet,server.host={self.host},server.port={self.port}{self._tls}"

    @property
    def _tls(self) -> str:
        known_as = f",tls-hostname={self.known_as}" if self.known_as else ""
        return f",tls-creds={TLS}{known_as}" if self.certificates else ""

    @property
    def objects(self) -> list[str]:
        """QEMU's words for what the block device needs beside itself."""
        if not self.certificates:
            return []
        folder = qemu.escape(self.certificates)
        return ["-object", f"tls-creds-x509,id={TLS},endpoint=client,dir={folder},verify-peer=on"]


def arguments(target: NbdTarget, hardware: Hardware, accel: qemu.Accelerator, firmware: qemu.Firmware) -> list[str]:
    """QEMU's arguments for a guest whose only disk is the clone."""
    disk = (
        f"driver=nbd,node-name=clone,{target.server},export={target.export},"
        "reconnect-delay=600,discard=unmap,cache.direct=on"
    )
    return [
        "-machine", "q35", *accel.words, "-smp", str(hardware.cpus), "-m", str(hardware.memory_mib), "-nodefaults",
        *firmware.words,
        *target.objects,
        "-blockdev", disk,
        "-device", "virtio-blk-pci,drive=clone,werror=enospc,bootindex=0",
        "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


@contextmanager
def booted(
    runner: Runner, target: NbdTarget, *, hardware: Hardware | None = None, deadline: float = 300
) -> Iterator[tuple[qemu.Machine, Boot]]:
    """Boot the clone to its login prompt and hold the guest there, stopped, so that counters can be read.

    Raises MachineFault when the guest crashes (``fault`` tells how), DeadlineExceeded after ``deadline`` seconds.
    """
    with started(runner, target, hardware=hardware or Hardware()) as machine:
        yield machine, stopped_at_prompt(machine, deadline=deadline)


@contextmanager
def started(runner: Runner, target: NbdTarget, *, hardware: Hardware) -> Iterator[qemu.Machine]:
    """A guest that begins to boot the clone; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="hatchery-guest-") as name:
        folder = Path(name)
        words = arguments(target, hardware, qemu.accelerator(), qemu.firmware(folder))
        with qemu.start(runner, words, folder, clock=time.monotonic()) as machine:
            yield machine


def stopped_at_prompt(machine: qemu.Machine, *, deadline: float) -> Boot:
    """Wait for the login prompt, and stop the guest there. Raises as ``booted``."""
    seen = machine.console.wait_for(PROMPT, deadline=deadline, faults=FAULTS)
    machine.process.signal(signal.SIGSTOP)
    return Boot(seen.at - machine.started, machine.cpu_seconds())
