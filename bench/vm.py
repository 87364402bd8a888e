"""A whole machine in QEMU: the appliance, with an NVMe drive and disks as slow as real ones.

    with VM(folder, system=image, drives=[...], key=Key.create(folder)) as vm:
        vm.start()
        vm.wait_ssh(deadline=300)
        vm.ssh(["systemctl", "is-system-running"])
        vm.power_cut()
        vm.start()                                     # the same disks

Nothing is left when the block ends, whatever ended it.
"""

import base64
import contextlib
import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from appliance.errors import DeadlineExceeded, NotReady
from appliance.measure import qemu
from appliance.measure.guest import EMULATOR_FAULTS
from appliance.run import Completed, Process, Runner
from appliance.wait import until
from bench.drives import Drive, device_words, drive_words

LOOPBACK = "127.0.0.1"
QMP_SOCKET = "qmp.sock"
SCSI = "virtio-scsi-pci,id=scsi,num_queues=1,cmd_per_lun=32"
"""One queue of 32 requests a disk, as with SATA: the kernel then schedules and merges as it does for real disks."""
PID_FILE = "qemu.pid"
SECURE_FIRMWARE = (("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),)
"""UEFI firmware with Secure Boot, which Debian builds for machines whose processor has a system management mode."""

SECURE_WORDS = ("-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
"""Only that mode may write to the variables, and sleeping is not for such firmware (OVMF: OvmfPkg/README)."""


@dataclass(frozen=True, slots=True)
class Key:
    """An SSH key pair for logging in as root."""

    private: Path

    @property
    def public(self) -> str:
        """The line for authorized_keys."""
        return self.private.with_name(self.private.name + ".pub").read_text().strip()

    @classmethod
    def create(cls, folder: Path, runner: Runner) -> "Key":
        """Make one in ``folder`` unless it is there."""
        private = folder / "ssh-key"
        if not private.exists():
            runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hatchery", "-f", private])
        return cls(private)


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine apart from its drives. With ``secure_boot`` its firmware can do that; it begins without any keys."""

    memory_mib: int = 2048
    cpus: int = 2
    secure_boot: bool = False


class Identity(Enum):
    """Where the machine learns whom it lets in."""

    SMBIOS = "the virtual machine's firmware"
    DISK = "its system disk, as `script/image write` made it"


@dataclass
class VM:
    """One machine. ``forwards`` are TCP ports inside; ``port`` tells where each is found on the host's loopback.

    The system has a disk of its own, of ``system_size`` bytes, or lies on that of the drives that ``system_on`` is.
    """

    folder: Path
    system: Path
    drives: Sequence[Drive]
    key: Key
    runner: Runner
    hardware: Hardware = field(default_factory=Hardware)
    forwards: Sequence[int] = ()
    system_size: int = 8 << 30
    system_on: Drive | None = None
    outlive: bool = False
    credentials: Mapping[str, str] = field(default_factory=dict)
    identity: Identity = Identity.SMBIOS

    def __post_init__(self) -> None:
        self._machine: qemu.Machine | None = None
        self._master: Process | None = None
        self._ports = dict(zip((22, *self.forwards), free_ports(1 + len(self.forwards)), strict=True))
        self.folder.mkdir(parents=True, exist_ok=True)

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch it on, with the disks as they are. Raises NotReady when QEMU does not start."""
        if self._machine is not None:
            raise NotReady("the machine runs already", hint="power_cut or shutdown first")
        self._make_disks()
        self._machine = qemu.start(
            self.runner, self._arguments(), self.folder, clock=time.monotonic(), outlive=self.outlive
        )

    def reset(self) -> None:
        """Press the reset button: it begins anew, and its kernel hears nothing of it."""
        self._qmp("system_reset")

    def power_cut(self) -> None:
        """Kill QEMU: what the guest had not flushed is lost. Fine when it is off."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
        self._close_master()

    def shutdown(self, *, deadline: float = 180) -> None:
        """Press the power button and wait until it is off. Raises DeadlineExceeded (and leaves it running)."""
        machine = self.machine
        self._qmp("system_powerdown")
        machine.process.wait(deadline)
        self.power_cut()

    def detach(self) -> None:
        """Let go of the running machine, which goes on without this process (needs ``outlive``)."""
        self.machine.console.close()
        self._machine = None
        self._close_master()

    def __enter__(self) -> "VM":
        return self

    def __exit__(self, *_: object) -> None:
        self.power_cut()

    @property
    def running(self) -> bool:
        """Whether it was switched on and not off again."""
        return self._machine is not None

    @property
    def machine(self) -> qemu.Machine:
        """The running machine: process and console. Raises NotReady when it is off."""
        if self._machine is None:
            raise NotReady("the machine is off", hint="start it")
        return self._machine

    def wait_login(self, *, deadline: float) -> float:
        """Wait for the login prompt on the console; return the seconds since it was switched on."""
        seen = self.machine.console.wait_for("login: ", deadline=deadline, faults=("Kernel panic", *EMULATOR_FAULTS))
        return seen.at - self.machine.started

    @property
    def system_by_id(self) -> str:
        """The stable name of the disk that the system lies on, in the machine."""
        return "/dev/disk/by-id/virtio-SYSTEM" if self.system_on is None else self.system_on.by_id

    def rewrite_system(self) -> None:
        """Make the system's disk what the image makes of a new one, while it is off; nothing of it is kept."""
        if self._machine is not None:
            raise NotReady("the machine runs", hint="power_cut or shutdown first")
        self._system.unlink(missing_ok=True)

    # -- reaching it ---------------------------------------------------------------------------------------------

    def port(self, inside: int) -> int:
        """The port on the host's loopback that leads to the machine's TCP port ``inside``."""
        return self._ports[inside]

    @property
    def ssh_options(self) -> list[str]:
        """Options for ssh that reach the machine, whatever the user's own configuration says."""
        options = {
            "Port": self.port(22),
            "IdentityFile": self.key.private,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self._known_hosts,
            "StrictHostKeyChecking": "accept-new",
            "BatchMode": "yes",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "LogLevel": "ERROR",
        }
        words = ["-F", "none"]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return words

    @property
    def destination(self) -> str:
        """User and host for ssh, with ``ssh_options``."""
        return f"root@{LOOPBACK}"

    def ssh(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 120, check: bool = True) -> Completed:
        """Run a command in the machine as root, over one shared connection.

        ``argv`` are words; the machine's shell sees each quoted. Raises CommandFailed, DeadlineExceeded.
        """
        control = ["-o", f"ControlPath={self._control}", "-o", "ControlMaster=no"]
        return self.runner.run(
            ["ssh", *self.ssh_options, *control, self.destination, "--", shlex.join(argv)],
            stdin=stdin,
            timeout=timeout,
            check=check,
        )

    def wait_ssh(self, *, deadline: float) -> None:
        """Wait until root can log in. Raises DeadlineExceeded with the console's last lines, MachineFault."""
        end = time.monotonic() + deadline

        def attempt() -> bool:
            if not self.machine.process.running():
                raise NotReady("the machine ended", why=self.machine.console.tail())
            try:
                done = self.ssh(["true"], timeout=40, check=False)
            except DeadlineExceeded:
                return False
            return done.returncode == 0

        try:
            until(attempt, "root's login over ssh", deadline=end - time.monotonic(), interval=1)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(error.what, why="the console last said:\n" + self.machine.console.tail()) from error
        self._open_master()

    def reboot(self, *, deadline: float) -> None:
        """Restart it cleanly, from inside, and wait until root can log in again. Raises DeadlineExceeded."""
        question = ["cat", "/proc/sys/kernel/random/boot_id"]
        before = self.ssh(question).stdout
        self.ssh(["systemctl", "reboot"], check=False)
        self._close_master()

        def again() -> bool:
            try:
                done = self.ssh(question, timeout=40, check=False)
            except DeadlineExceeded:
                return False
            return done.returncode == 0 and done.stdout != before

        until(again, "the machine to come back", deadline=deadline, interval=1)
        self._open_master()

    def reconnect(self, *, deadline: float) -> None:
        """Log in anew, after somebody else restarted it. Raises as ``wait_ssh``."""
        self._close_master()
        self.wait_ssh(deadline=deadline)

    def forget(self) -> None:
        """Take the key that it shows next for its own: its system begins anew, and makes another."""
        self._known_hosts.unlink(missing_ok=True)

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def _control(self) -> Path:
        return self.folder / "ssh.ctl"

    def _open_master(self) -> None:
        """One connection that all others share: a login under emulation takes seconds."""
        if self._master is None:
            words = ["-M", "-N", "-o", f"ControlPath={self._control}"]
            self._master = self.runner.start(
                ["setpriv", "--pdeathsig", "TERM", "ssh", *self.ssh_options, *words, self.destination],
                stderr=subprocess.DEVNULL,
            )
            until(self._control.exists, "the shared ssh connection", deadline=60)

    def _close_master(self) -> None:
        if self._master is not None:
            self._master.stop()
            self._master = None
        self._control.unlink(missing_ok=True)

    def _make_disks(self) -> None:
        if not self._system.exists():
            size = self.system_size if self.system_on is None else self.system_on.size
            words = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.system.resolve())]
            self.runner.run(["qemu-img", *words, self._system, str(size)])
        for drive in self._others():
            file = self._file(drive)
            if not file.exists():
                with file.open("wb") as handle:
                    handle.truncate(drive.size)

    @property
    def _system(self) -> Path:
        return self.folder / "system.qcow2"

    def _others(self) -> list[Drive]:
        """The drives that the system does not lie on."""
        return [drive for drive in self.drives if drive != self.system_on]

    def _file(self, drive: Drive) -> Path:
        return self.folder / f"{drive.serial}.raw"

    def _arguments(self) -> list[str]:
        secure = self.hardware.secure_boot
        accel, firmware = qemu.accelerator(), qemu.firmware(self.folder, SECURE_FIRMWARE if secure else qemu.FIRMWARE)
        # Past the host's page cache where its file system can: a power cut and a cold cache are then what they claim.
        cache = "none" if direct_io_works(self.folder) else "writeback"
        system = f"if=none,id=system,format=qcow2,file={qemu.escape(self._system)}"
        own = "virtio-blk-pci,drive=system,serial=SYSTEM"
        disk = own if self.system_on is None else device_words(self.system_on, "system")
        words = [
            "-machine", "q35,smm=on" if secure else "q35", *(SECURE_WORDS if secure else ()),
            *accel.words, "-smp", str(self.hardware.cpus), "-m", str(self.hardware.memory_mib),
            "-nodefaults", *firmware.words, "-qmp", f"unix:{qemu.escape(self._qmp_path)},server=on,wait=off",
            "-pidfile", str(self.folder / PID_FILE),
            "-drive", system, "-device", SCSI, "-device", f"{disk},bootindex=0",
            "-device", "virtio-rng-pci",
            "-netdev", ",".join(["user,id=net", *self._hostfwd()]), "-device", "virtio-net-pci,netdev=net,romfile=",
        ]  # fmt: skip
        for number, drive in enumerate(self._others()):
            words += drive_words(drive, self._file(drive), f"drive{number}", cache)
        for name, value in self._all_credentials().items():
            coded = base64.b64encode(value.encode()).decode()
            words += ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={coded}"]
        return words

    def _hostfwd(self) -> Iterable[str]:
        return (f"hostfwd=tcp:{LOOPBACK}:{outside}-:{inside}" for inside, outside in self._ports.items())

    def _all_credentials(self) -> dict[str, str]:
        key = {"ssh.authorized_keys.root": self.key.public + "\n"} if self.identity is Identity.SMBIOS else {}
        return {**key, **self.credentials}

    @property
    def _qmp_path(self) -> Path:
        return self.folder / QMP_SOCKET

    def _qmp(self, command: str) -> None:
        """One QMP command, without looking at its result (QEMU: docs/interop/qmp-spec.rst)."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._qmp_path))
            lines = connection.makefile("rw")
            lines.readline()  # the greeting
            for execute in ("qmp_capabilities", command):
                lines.write(json.dumps({"execute": execute}) + "\n")
                lines.flush()
                lines.readline()


def direct_io_works(folder: Path) -> bool:
    """Whether files in ``folder`` can be opened past the page cache (a tmpfs may refuse it)."""
    probe = folder / ".direct"
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def free_ports(count: int) -> list[int]:
    """``count`` different TCP ports that nobody listens on at this moment, on the loopback."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind((LOOPBACK, 0))
        return [item.getsockname()[1] for item in sockets]
