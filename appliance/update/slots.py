"""The two slots of the system disk: which versions they hold, and what systemd-boot knows about each.

A version that can be started is a file on the EFI system partition, and its name says how it stands (systemd's
Automatic Boot Assessment): ``hatchery_0.2.0.efi`` is good, ``hatchery_0.2.0+2-1.efi`` is on trial with two tries left
and one done, ``hatchery_0.2.0+0-3.efi`` has used them up and is started only when there is nothing else.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import CannotTell, InvalidInput, NotReady, Unhealthy
from appliance.host import block, partitions
from appliance.host.block import Device
from appliance.host.partitions import Partition
from appliance.run import Runner
from appliance.update import version
from appliance.update.version import Version

OS_RELEASE = Path("/usr/lib/os-release")
TRIES = 3
"""How often a new version is started before it is given up (30-uki.transfer)."""

USR = "8484680c-9521-48c6-9c11-b0720656f69e"
USR_VERITY = "77ff5f63-e7b6-4633-acf4-1565b864c0e6"
"""Partition types for x86-64 (UAPI.2)."""

_UKI = re.compile(r"hatchery_([0-9.]+)(?:\+([0-9]+)(?:-([0-9]+))?)?\.efi")


@dataclass(frozen=True, slots=True)
class Uki:
    """A version that can be started. ``tries_left`` is None when nothing is counted: it was found good."""

    version: Version
    tries_left: int | None = None
    tries_done: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        """Its file."""
        tries = "" if self.tries_left is None else f"+{self.tries_left}-{self.tries_done}"
        return f"hatchery_{self.version}{tries}.efi"

    @property
    def good(self) -> bool:
        """Whether it has shown that it is."""
        return self.tries_left is None

    @property
    def given_up(self) -> bool:
        """Whether it has no try left."""
        return self.tries_left == 0

    @property
    def counted(self) -> bool:
        """Whether a start under this name was one of its tries, and not for want of anything else to start."""
        return self.tries_left is not None and (self.tries_left > 0 or self.tries_done <= TRIES)


@dataclass(frozen=True, slots=True)
class Slots:
    """What can be started, and what runs. ``free`` is the room on the EFI system partition, in bytes."""

    running: Version
    ukis: tuple[Uki, ...]
    partitions: tuple[Partition, ...]
    free: int

    @property
    def current(self) -> Uki | None:
        """What was started; None when its file is gone."""
        return self.of(self.running)

    @property
    def others(self) -> tuple[Uki, ...]:
        """What does not run."""
        return tuple(uki for uki in self.ukis if uki.version != self.running)

    def of(self, wanted: Version) -> Uki | None:
        """The file of a version."""
        return next((uki for uki in self.ukis if uki.version == wanted), None)

    def next(self) -> Version | None:
        """What the next start starts: the newest that is not given up, as systemd-boot sorts."""
        order = sorted(self.ukis, key=lambda uki: (not uki.given_up, uki.version))
        return order[-1].version if order else None


def parse_uki(name: str, size: int = 0) -> Uki | None:
    """The version that a file of this name starts; None for a file that is none of ours."""
    found = _UKI.fullmatch(name)
    if found is None:
        return None
    try:
        of = version.parse(found[1])
    except InvalidInput:
        return None
    return Uki(of, None if found[2] is None else int(found[2]), int(found[3] or 0), size)


def parse_os_release(text: str) -> Version:
    """The version of the image that runs (os-release(5)). Raises NotReady when it is no appliance's."""
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    if values.get("IMAGE_ID", "").strip('"') != "hatchery":
        raise NotReady("this machine cannot be updated", why="it does not run an image of the appliance")
    return version.parse(values.get("IMAGE_VERSION", "").strip('"'))


def running() -> Version:
    """The version that runs. Raises NotReady, CannotTell."""
    try:
        return parse_os_release(OS_RELEASE.read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotTell("which version runs cannot be told", why=str(error)) from error


def boot_folder(runner: Runner) -> Path:
    """Where the versions that can be started lie: on the EFI system partition. Raises CommandFailed."""
    return Path(runner.run(["bootctl", "--print-boot-path"]).stdout.strip()) / "EFI/Linux"


def system_disk() -> Device:
    """The disk that the root file system is on. Raises CannotTell."""
    number = Path("/").stat().st_dev
    root = block.by_number(f"{os.major(number)}:{os.minor(number)}")
    disk = block.by_name(root.parent) if root and root.parent else None
    if disk is None:
        raise CannotTell("the system disk cannot be told", why="the root file system is on no partition")
    return disk


def observe(folder: Path) -> Slots:
    """Look at both slots; ``folder`` is that of the versions that can be started. Raises NotReady, CannotTell."""
    table = partitions.read(system_disk())
    halves = tuple(one for one in table.partitions if one.kind in (USR, USR_VERITY)) if table else ()
    try:
        files = [(file.name, file.stat().st_size) for file in folder.iterdir()]
        room = os.statvfs(folder)
    except OSError as error:
        raise CannotTell("what can be started cannot be told", why=str(error)) from error
    return Slots(running(), ukis_of(files), halves, room.f_bavail * room.f_frsize)


def ukis_of(files: Iterable[tuple[str, int]]) -> tuple[Uki, ...]:
    """Those of the files (names and sizes) that start a version, oldest version first."""
    found = [uki for name, size in files if (uki := parse_uki(name, size))]
    return tuple(sorted(found, key=lambda uki: uki.version))


def spare(slots: Slots) -> tuple[Partition, ...]:
    """The halves of the slot that does not run: hashes and /usr. Raises Unhealthy when there is none."""
    mine = f"hatchery_{slots.running}"
    found = [half for half in slots.partitions if half.name != mine]
    if {half.kind for half in found} != {USR, USR_VERITY}:
        raise Unhealthy(
            "there is no second slot",
            why="the system disk has no further partitions for /usr",
            hint="write the image to the disk again; the store on the other disks stays as it is",
        )
    return tuple(found)
