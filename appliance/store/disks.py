"""Whole disks, and which of them may be taken: never one that is in use, and none with foreign content unasked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InUse, NotFound, Refused
from appliance.host import block, md, mount, partitions
from appliance.host.block import Device, Signature
from appliance.host.md import Superblock
from appliance.host.partitions import Table
from appliance.model import MIB
from appliance.reconcile import Description
from appliance.store.machine import Machine

_SYSTEM_MOUNTS = frozenset({"/", "/usr", "/boot", "/efi", "/boot/efi", "/var", "/etc", "/home"})


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk as it was found. Sizes in bytes. ``users`` are mounts and devices that depend on it."""

    path: str
    name: str
    size: int
    logical_block: int
    serials: frozenset[str]
    signatures: tuple[Signature, ...]
    users: tuple[str, ...]
    system: bool
    table: Table | None
    member: Superblock | None

    @property
    def blank(self) -> bool:
        """Whether nothing known is on it."""
        return not self.signatures and self.table is None


def observe(machine: Machine, path: str) -> Disk:
    """Look at a disk without changing it. Raises NotFound when it is missing, Refused for a partition."""
    device = block.find(path)
    if device is None:
        raise NotFound(f"{path} is not there", why="no such disk", hint="check the cabling, or the name given")
    if device.parent is not None:
        raise Refused(
            f"{path} is a partition", why="the store takes whole disks", hint=f"name its disk, {device.parent}"
        )
    found = block.signatures(machine.runner, device)
    return Disk(
        path=path,
        name=device.name,
        size=device.size,
        logical_block=device.logical_block,
        serials=block.serials(device, path),
        signatures=found,
        users=users(device),
        system=device.name in system_devices(),
        table=partitions.read(device),
        member=md.superblock(device),
    )


def users(device: Device) -> tuple[str, ...]:
    """Who depends on a disk or on one of its partitions: mount points and names of devices."""
    found: list[str] = []
    for part in (device, *block.partitions(device)):
        found += [f"mounted at {target}" for target in mount.targets(part)]
        found += [f"part of {holder}" for holder in block.holders(part)]
        if (part.sysfs / "bcache").is_dir():
            found.append("registered with bcache")
    return tuple(found)


def system_devices() -> frozenset[str]:
    """Names of all devices that the running system is on, at whatever depth."""
    found: set[str] = set()
    for mounted in mount.mounts():
        device = block.by_number(mounted.number) if mounted.target in _SYSTEM_MOUNTS else None
        if device is not None:
            found |= block.below(device)
    return frozenset(found)


def refuse_twice(disks: Iterable[Disk]) -> None:
    """Raise Refused when two of the names stand for one disk."""
    seen: dict[str, str] = {}
    for disk in disks:
        if disk.name in seen:
            raise Refused(f"{disk.path} and {seen[disk.name]} are one disk", hint="name each disk once")
        seen[disk.name] = disk.path


def refuse_unequal(disks: Iterable[Disk]) -> None:
    """Raise Refused when the disks, which are to become one array, have sectors of different sizes.

    An array has the largest sectors of its members. Once those with large ones are replaced, its own would shrink, and
    its partition table would not be found any more.
    """
    sizes = {disk.logical_block: disk.path for disk in disks}
    if len(sizes) > 1:
        raise Refused(
            "the disks have sectors of different sizes",
            why="; ".join(f"{path}: {size} bytes" for size, path in sorted(sizes.items())),
            hint="use disks with sectors of one size; some can be formatted with another one",
        )


def take(disk: Disk, wipe: frozenset[str]) -> tuple["WipeDisk", ...]:
    """The steps that make a disk ours: none for a blank one.

    Raises Refused for the system disk and for foreign content that nobody asked to wipe, InUse for a disk in use.
    """
    if disk.system:
        raise Refused(f"{disk.path} holds the running system", hint="name another disk")
    if disk.users:
        raise InUse(f"{disk.path} is in use", why="; ".join(disk.users), hint="release it first, or name another disk")
    if disk.blank:
        return ()
    if not disk.serials & wipe:
        raise Refused(
            f"{disk.path} is not empty",
            why=f"it holds {content(disk)}",
            hint=f"to destroy that, have it wiped by its serial number: {' or '.join(sorted(disk.serials))}",
        )
    return (WipeDisk(disk.path, content(disk)),)


def content(disk: Disk) -> str:
    """What is on a disk, in words."""
    found = [str(signature) for signature in disk.signatures]
    if disk.table is not None:
        names = [partition.name or "unnamed" for partition in disk.table.partitions]
        found.append(f"{len(names)} partitions ({', '.join(names)})" if names else "an empty partition table")
    return ", ".join(dict.fromkeys(found)) or "nothing known"


@dataclass(frozen=True, slots=True)
class WipeDisk:
    """Destroy what is on a disk, as its owner asked."""

    path: str
    content: str

    def describe(self) -> Description:
        """What it does."""
        return Description("wipe", self.path, f"destroys {self.content}")

    def apply(self, machine: Machine) -> None:
        """Signatures of partitions first, then the disk's own, then its first and last MiBs."""
        device = block.get(self.path)
        for part in reversed(block.partitions(device)):
            machine.runner.run(["wipefs", "--all", "--force", part.path])
        machine.runner.run(["wipefs", "--all", "--force", device.path])
        block.zero(device.path, 0, 16 * MIB)
        block.zero(device.path, device.size - MIB, MIB)
        block.settle(machine.runner)
        machine.runner.run(["blockdev", "--rereadpt", device.path], check=False)
        block.settle(machine.runner)


def present(paths: Iterable[str]) -> tuple[Path, ...]:
    """Those of the disks that are there."""
    return tuple(Path(path) for path in paths if block.find(path) is not None)
