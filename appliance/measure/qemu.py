"""What every QEMU machine here has in common: accelerator, firmware, serial console, clean end."""

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import NotReady
from appliance.measure.serial import Serial
from appliance.run import Process, Runner
from appliance.wait import until

QEMU = "qemu-system-x86_64"

TCG = "tcg,thread=multi,tb-size=1024"
"""Emulation, for machines without KVM: one host thread for each virtual CPU, 1 GiB of translated code."""

START_DEADLINE = 120.0
"""Seconds until QEMU listens. One that cannot start ends at once; one of fifty on two processors takes its time."""

FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""Where distributions put the UEFI firmware: its code, and the template of its variables."""


def escape(value: str | Path) -> str:
    """A value as it stands in a QEMU option, where a comma would end it."""
    return str(value).replace(",", ",,")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """How QEMU runs guest code: its ``-accel`` and ``-cpu`` values."""

    accel: str
    cpu: str

    @property
    def words(self) -> list[str]:
        """The two options as words of a command line."""
        return ["-accel", self.accel, "-cpu", self.cpu]

    @property
    def emulated(self) -> bool:
        """Whether it is TCG: everything that computes takes ten times as long."""
        return self.accel != "kvm"


def accelerator(kvm: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Accelerator:
    """KVM where it really works, else TCG.

    The device may exist on a machine whose processor shows no virtualization; QEMU would start there and die on an
    instruction that cannot be emulated. So both are asked for: the device opens, and the processor has the flag.
    """
    flags = {word for line in cpuinfo.read_text().splitlines() if line.startswith("flags") for word in line.split()}
    if flags & {"vmx", "svm"}:
        try:
            os.close(os.open(kvm, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            pass
        else:
            return Accelerator("kvm", "host")
    return Accelerator(TCG, "max")


@dataclass(frozen=True, slots=True)
class Firmware:
    """UEFI firmware: read-only code, and this machine's own variables."""

    code: Path
    variables: Path

    @property
    def words(self) -> list[str]:
        """The two flash chips as words of a command line."""
        return [
            "-drive", f"if=pflash,format=raw,readonly=on,file={escape(self.code)}",
            "-drive", f"if=pflash,format=raw,file={escape(self.variables)}",
        ]  # fmt: skip


def firmware(folder: Path, choices: Sequence[tuple[str, str]] = FIRMWARE) -> Firmware:
    """The host's UEFI firmware, with a fresh copy of the variables in ``folder`` unless one is there already.

    Raises NotReady when the host has none.
    """
    for code, variables in choices:
        if Path(code).exists() and Path(variables).exists():
            own = folder / "variables.fd"
            if not own.exists():
                shutil.copyfile(variables, own)
            return Firmware(Path(code), own)
    raise NotReady("there is no UEFI firmware for QEMU", why=f"{choices[0][0]} is missing", hint="install ovmf")


class Machine:
    """A running QEMU process and its serial console. End it with ``kill``; as a context manager it always ends."""

    def __init__(self, process: Process, console: Serial, started: float) -> None:
        self.process = process
        self.console = console
        self.started = started
        """``time.monotonic()`` just before the process was started."""

    def kill(self) -> None:
        """End it at once: for the guest, a power cut."""
        self.process.kill()
        self.console.close()

    def cpu_seconds(self) -> float:
        """Processor time that QEMU has used so far, all its threads, in seconds (proc(5), utime and stime)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def start(runner: Runner, arguments: Sequence[str], folder: Path, *, clock: float, outlive: bool = False) -> Machine:
    """Start QEMU with ``arguments`` and a serial console whose text also goes to ``folder``/serial.log.

    ``clock`` is ``time.monotonic()`` where the boot counts from. The machine ends with this process, however that
    ends, unless ``outlive``. Raises NotReady with QEMU's own words when it does not start.
    """
    path = folder / "serial.sock"
    path.unlink(missing_ok=True)
    transcript = folder / "serial.log"
    errors = folder / "qemu.log"
    # QEMU waits for the console's reader, so that not one character is lost.
    console = f"path={escape(path)},server=on,wait=on,logfile={escape(transcript)},logappend=on"
    words = [
        QEMU, *arguments, "-display", "none", "-monitor", "none",
        "-chardev", f"socket,id=console,{console}", "-serial", "chardev:console",
    ]  # fmt: skip
    if not outlive:
        words = ["setpriv", "--pdeathsig", "KILL", *words]
    with errors.open("wb") as log:
        process = runner.start(words, stdout=log, stderr=log)
    try:
        serial = Serial(_connect(path, process, errors), transcript=transcript)
    except BaseException:
        process.kill()
        raise
    return Machine(process, serial, clock)


def _connect(path: Path, process: Process, errors: Path) -> socket.socket:
    """A connection to QEMU's console as soon as it listens."""

    def attempt() -> socket.socket | None:
        if not process.running():
            raise NotReady(f"{QEMU} did not start", why=errors.read_text(errors="replace").strip())
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    return until(attempt, f"{QEMU} to open its console", deadline=START_DEADLINE, interval=0.005)
