"""``hatchery-store remove``: take the store off its drives, with all templates and clones, and forget its settings.

Who asks for it spells out the serial number of every drive. Only what Hatchery made goes: its partitions on the NVMe
drives, and the disks that are members of its array. Cut off at any moment, the same command goes on: the settings,
which tell the drives, go last, but for those without which the store does not start any more.
"""

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

from appliance.config import Part
from appliance.errors import CannotTell, InUse, InvalidInput, Refused
from appliance.host import block, mount, partitions, units
from appliance.host.block import Device
from appliance.model import MIB
from appliance.reconcile import Description, apply
from appliance.store import disks, names, setup, start
from appliance.store.machine import Machine, StoreSteps
from appliance.store.setup import Doing, Result

log = logging.getLogger(__name__)

_OURS = (names.PART_META, names.PART_CACHE, names.PART_FAST)
_HEAD = 16 * MIB


@dataclass(frozen=True, slots=True)
class Wish:
    """The drives' serial numbers, and whether clones that are attached may go as well."""

    serials: tuple[str, ...]
    lose_attached: bool = False


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive of the settings: what of it is ours. One that is missing has no serial numbers.

    ``ours`` are partitions; ``table`` says that nothing but them is in a partition table that setup made.
    """

    path: str
    serials: frozenset[str] = frozenset()
    ours: tuple[str, ...] = ()
    table: bool = False
    member: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found: the drives, what is up on them, who uses it, and the settings' files."""

    drives: tuple[Drive, ...] = ()
    services: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    settings: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class StopServices:
    """Stop the services that use the store; the store is taken down by its own."""

    services: tuple[str, ...]

    def describe(self) -> Description:
        """What it does."""
        return Description("stop", "services", ", ".join(self.services))

    def apply(self, machine: Machine) -> None:
        """Stop them."""
        units.stop_all(machine.runner, self.services)


@dataclass(frozen=True, slots=True)
class TakeDown:
    """Take down what is up."""

    parts: tuple[str, ...]

    def describe(self) -> Description:
        """What it does."""
        return Description("take down", "store", ", ".join(self.parts))

    def apply(self, machine: Machine) -> None:
        """As ``hatchery-store down`` does. Raises what kept it from it: then nothing was wiped."""
        if failed := start.down(machine):
            raise failed[0]


@dataclass(frozen=True, slots=True)
class ErasePartitions:
    """Take our partitions off an NVMe drive, and the table where nothing else is in it."""

    path: str
    ours: tuple[str, ...]
    table: bool

    def describe(self) -> Description:
        """What it does."""
        what = (*self.ours, *(("the partition table, which is empty then",) if self.table else ()))
        return Description("erase", self.path, ", ".join(what))

    def apply(self, machine: Machine) -> None:
        """What tells a partition's content goes first, so that it is known for ours until it is unrecognisable."""
        device = block.get(self.path)
        _refuse_users(self.path, _parts(device))
        partitions.tell_kernel(machine.runner, device)
        table = partitions.read(device)
        for part in table.partitions if table is not None else ():
            if part.name in self.ours:
                block.zero(device.path, part.start, min(_HEAD, part.size))
                block.zero(device.path, part.end - MIB, MIB)
        if self.ours:
            partitions.delete(machine.runner, device, self.ours)
        if self.table:
            _blank(machine, device, MIB)


@dataclass(frozen=True, slots=True)
class EraseMember:
    """Make a disk of the array blank."""

    path: str

    def describe(self) -> Description:
        """What it does."""
        return Description("erase", self.path, f"a member of {names.array(names.BACKEND)}")

    def apply(self, machine: Machine) -> None:
        """Its superblock goes last, so that a disk is known for ours until nothing else is left."""
        device = block.get(self.path)
        _refuse_users(self.path, (device,))
        _blank(machine, device, _HEAD)


@dataclass(frozen=True, slots=True)
class ForgetSettings:
    """Remove settings' files."""

    files: tuple[Path, ...]

    def describe(self) -> Description:
        """What it does."""
        return Description("remove", "settings", ", ".join(map(str, self.files)))

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """The backend's before the NVMe drive's."""
        for file in self.files:
            setup.remove_file(file)


def run(machine: Machine, wish: Wish, doing: Doing) -> Result:
    """Plan the removal and, unless it is only checked, do it. Raises HatcheryError."""
    looked = observe(machine)
    steps = plan(looked, wish)
    before = "".join(file.read_text(encoding="utf-8") for file in sorted(looked.settings))
    if doing is Doing.CHECK:
        return Result(tuple(step.describe() for step in steps), before, "")
    # Stopped before the lock is taken: the store's own service takes it to go down.
    done = apply([step for step in steps if isinstance(step, StopServices)], machine)
    with machine.exclusive():
        done += apply(plan(observe(machine), wish), machine)
    return Result(done, before, "")


def plan(found: Looked, wish: Wish) -> StoreSteps:
    """The steps of a removal; none when nothing was set up. Pure. Raises Refused, InUse, InvalidInput."""
    if not found.settings:
        return ()
    check_serials(found, wish.serials)
    if found.attached and not wish.lose_attached:
        raise InUse(
            "clones are attached",
            why=", ".join(found.attached),
            hint="detach them (`hatchery clone list`), or say that they may be lost: --lose-attached-clones",
        )
    steps: StoreSteps = (StopServices(found.services),) if found.services else ()
    if found.standing:
        steps = (*steps, TakeDown(found.standing))
    first = tuple(file for file in found.settings if file.name == Part.STORE.file_name)
    if first:
        steps = (*steps, ForgetSettings(first))
    for drive in found.drives:
        if drive.ours or drive.table:
            steps = (*steps, ErasePartitions(drive.path, drive.ours, drive.table))
        if drive.member:
            steps = (*steps, EraseMember(drive.path))
    rest = sorted((file for file in found.settings if file not in first), reverse=True)
    return (*steps, ForgetSettings(tuple(rest))) if rest else steps


def check_serials(found: Looked, serials: tuple[str, ...]) -> None:
    """Raise Refused unless the serial numbers are those of the drives, each of them and no others.

    A drive that is missing need not be named, and its number is believed if it is in its name. Once the settings of the
    backend are gone, the numbers of its disks are no longer known, and no longer needed.
    """
    if not all(serials) or len(set(serials)) != len(serials):
        raise InvalidInput(
            "the serial numbers are not a list of different words",
            why="one of them is empty, or is there twice",
            hint="spell out the serial number of each drive once",
        )
    lacking = [drive for drive in found.drives if drive.serials and not drive.serials & set(serials)]
    if lacking:
        raise Refused(
            "not every drive of the store was named by its serial number",
            why=f"missing: {', '.join(drive.path for drive in lacking)}",
            hint="look at the drives, and spell out the serial number of each",
        )
    known = {serial for drive in found.drives for serial in drive.serials}
    gone = [Path(drive.path).name for drive in found.drives if not drive.serials]
    whole = {Part.NVME.file_name, Part.BACKEND.file_name} <= {file.name for file in found.settings}
    foreign = [one for one in serials if one not in known and not any(one in name for name in gone)]
    if foreign and whole:
        raise Refused(
            f"{', '.join(foreign)} is no serial number of this store's drives",
            why="is this the right appliance?",
            hint=f"its drives are {', '.join(drive.path for drive in found.drives)}",
        )


def observe(machine: Machine) -> Looked:
    """Look at the drives of the settings, and at what is up. Changes nothing. Raises InUse, CannotTell."""
    config = machine.config
    settings = tuple(file for part in Part if (file := config.paths.conf_d / part.file_name).exists())
    if not settings:
        return Looked()
    nvme_paths = config.nvme.devices if config.nvme is not None else ()
    disk_paths = config.backend.disks if config.backend is not None else ()
    drives = (*(_nvme(machine, path) for path in nvme_paths), *(_disk(machine, path) for path in disk_paths))
    known = [names.parse_layer(entry.name) for entry in machine.dm.list()]
    attached = sorted(names.layer(*layer) for layer in known if layer is not None and layer[0] in names.EXPORTED)
    standing = [entry.name for entry in machine.dm.list() if entry.name.startswith(names.PREFIX)]
    for drive in drives:
        device = block.find(drive.path)
        parts = _parts(device, drive) if device is not None and (drive.ours or drive.member) else ()
        standing += [user for part in parts for user in disks.users(part)]
    if mount.mounted_at(config.paths.state) is not None:
        standing.append(str(config.paths.state))
    services = units.of_the_store(machine.runner) if units.booted_with_systemd() else ()
    if not units.booted_with_systemd() and _answers(config.paths.api_socket):
        raise InUse("hatcheryd is running", why="somebody answers on its socket", hint="stop it first")
    return Looked(drives, services, tuple(sorted(set(standing))), tuple(attached), settings)


def _nvme(machine: Machine, path: str) -> Drive:
    found = _observe(machine, path)
    if found is None:
        return Drive(path)
    ours = tuple(name for name in _OURS if found.table is not None and found.table.named(name) is not None)
    alone = found.table is not None and len(found.table.partitions) == len(ours)
    return Drive(path, found.serials, ours, table=alone and not found.system)


def _disk(machine: Machine, path: str) -> Drive:
    found = _observe(machine, path)
    if found is None:
        return Drive(path)
    member = found.member is not None and found.member.name == names.array(names.BACKEND)
    if not member and not found.blank:
        log.warning("%s is left as it is: it holds %s, which is not Hatchery's", path, disks.content(found))
    return Drive(path, found.serials, member=member)


def _observe(machine: Machine, path: str) -> disks.Disk | None:
    """The disk, or None for one that is missing. Raises CannotTell for one that cannot be read."""
    if block.find(path) is None:
        log.warning("%s is not there: what it holds stays on it", path)
        return None
    try:
        return disks.observe(machine, path)
    except CannotTell as error:
        hint = "to leave what it holds as it is, disconnect it and run this again"
        raise CannotTell(f"{path} cannot be looked at", why=str(error), hint=hint) from error


def _parts(device: Device, drive: Drive | None = None) -> tuple[Device, ...]:
    """What of a drive is ours: all of a member of the array, else the partitions with our names."""
    if drive is not None and drive.member:
        return (device,)
    table = partitions.read(device)
    places = [(part.start, part.size) for part in (table.partitions if table else ()) if part.name in _OURS]
    return tuple(part for part in block.partitions(device) if (part.start, part.size) in places)


def _refuse_users(path: str, parts: tuple[Device, ...]) -> None:
    """Raise InUse while anything is still built on what goes."""
    held = [user for part in parts for user in disks.users(part)]
    if held:
        raise InUse(f"{path} is still in use", why="; ".join(held), hint="see `hatchery-store status`")


def _answers(path: Path) -> bool:
    """Whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        return caller.connect_ex(str(path)) == 0


def _blank(machine: Machine, device: Device, head: int) -> None:
    """Erase a disk's beginning and end, its first MiB last, and let the kernel see that nothing is on it."""
    if head > MIB:
        block.zero(device.path, MIB, head - MIB)
    block.zero(device.path, device.size - MIB, MIB)
    block.zero(device.path, 0, MIB)
    partitions.forget(device)
    block.settle(machine.runner)
    machine.runner.run(["blockdev", "--rereadpt", device.path], check=False)
    block.settle(machine.runner)
