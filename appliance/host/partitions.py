"""GPT partition tables: read from the disk itself, written with sfdisk. Offsets and sizes in bytes.

Source of the format: UEFI specification 2.10, section 5.3.
"""

import binascii
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance import wait
from appliance.errors import CannotTell, NotFound
from appliance.host import block
from appliance.host.block import Device
from appliance.model import KIB, MIB
from appliance.run import Runner

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
_USUAL_TABLE = 32 * KIB
"""Holds a table of 128 entries, also on a disk with blocks of 4096 bytes."""

_MAX_TABLE = 1 * MIB


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: its name and its place on the disk; as it was read also its type and number, which begins at 1."""

    name: str
    start: int
    size: int
    guid: str = ""
    kind: str = field(default="", compare=False)
    number: int = field(default=0, compare=False)

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Table:
    """A GPT: its own id, the part of the disk that partitions may use, and the partitions in order of their start."""

    guid: str
    first: int
    end: int
    partitions: tuple[Partition, ...]

    def named(self, name: str) -> Partition | None:
        """The partition of that name, or None. Raises CannotTell when there are two."""
        found = [partition for partition in self.partitions if partition.name == name]
        if len(found) > 1:
            raise CannotTell(f"two partitions are named {name}", hint="remove or rename the one that is not Hatchery's")
        return found[0] if found else None

    def largest_gap(self, alignment: int) -> tuple[int, int]:
        """Start and size of the largest free run, both multiples of ``alignment``; (0, 0) when there is none."""
        best = (0, 0)
        cursor = self.first
        for partition in (*self.partitions, Partition("", self.end, 0)):
            start = align_up(cursor, alignment)
            size = partition.start // alignment * alignment - start
            if size > best[1]:
                best = (start, size)
            cursor = max(cursor, partition.end)
        return best


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` from ``value`` on."""
    return -(-value // alignment) * alignment


def parse(data: bytes, logical_block: int) -> Table | None:
    """Read the primary GPT in the first bytes of a disk; None when there is none. Raises CannotTell when damaged."""
    raw = data[logical_block : logical_block + _HEADER.size]
    if len(raw) < _HEADER.size or not raw.startswith(b"EFI PART"):
        return None
    fields = _HEADER.unpack(raw)
    header_size, header_crc = fields[2], fields[3]
    first, last, guid, entries_at, count, size, entries_crc = fields[7:14]
    header = bytearray(data[logical_block : logical_block + header_size])
    header[16:20] = bytes(4)
    entries = data[entries_at * logical_block : entries_at * logical_block + count * size]
    if binascii.crc32(header) != header_crc or binascii.crc32(entries) != entries_crc:
        raise CannotTell("the partition table is damaged", why="its checksum is wrong", hint="see sgdisk(8), sfdisk(8)")
    found = []
    for index in range(count):
        kind, own, start, end, _, name = _ENTRY.unpack_from(entries, index * size)
        if kind == bytes(16):
            continue
        text = name.decode("utf-16-le", "replace").partition("\0")[0]
        place = start * logical_block, (end - start + 1) * logical_block
        kind_id, own_id = str(uuid.UUID(bytes_le=kind)), str(uuid.UUID(bytes_le=own))
        found.append(Partition(text, *place, own_id, kind_id, index + 1))
    found.sort(key=lambda partition: partition.start)
    own = str(uuid.UUID(bytes_le=guid))
    return Table(own, first * logical_block, (last + 1) * logical_block, tuple(found))


def read(disk: Device) -> Table | None:
    """The disk's GPT, or None. Raises CannotTell."""
    data = block.read(disk.path, 0, min(_USUAL_TABLE, disk.size))
    if _reaches(data, disk.logical_block) > len(data):
        data = block.read(disk.path, 0, min(_MAX_TABLE, disk.size))
    return parse(data, disk.logical_block)


def _reaches(data: bytes, logical_block: int) -> int:
    """Where the table's list of partitions ends, as far as can be told before its checksum is looked at."""
    raw = data[logical_block : logical_block + _HEADER.size]
    if len(raw) < _HEADER.size:
        return 0
    entries_at, count, size = _HEADER.unpack(raw)[10:13]
    return int(entries_at * logical_block + count * size)


_known: dict[tuple[str, str, int], Table] = {}


def _key(disk: Device) -> tuple[str, str, int]:
    return disk.name, block.read_text_or(disk.sysfs / "diskseq"), len(block.partitions(disk))


def remembered(disk: Device) -> Table | None:
    """The disk's GPT as it was read first: looking again at a disk that is being measured would count as its reads.

    A disk that is taken out and put in again, or an array that is started again, has a new number (``diskseq``) and
    is read anew; so is one whose partitions are no longer those that the kernel had. Raises CannotTell.
    """
    key = _key(disk)
    if key not in _known:
        table = read(disk)
        if table is None or not table.partitions:
            return table
        _known[key] = table
    return _known[key]


def forget(disk: Device) -> None:
    """Read the disk's table again the next time."""
    for key in [key for key in _known if key[0] == disk.name]:
        del _known[key]


def node(disk: Device, partition: Partition) -> Device:
    """The kernel's device for a partition. Raises NotFound when the kernel does not know it."""
    for device in block.partitions(disk):
        if device.start == partition.start and device.size == partition.size:
            return device
    raise NotFound(f"the kernel does not know the partition {partition.name} of {disk.name}", hint="see partx(8)")


def find(disk: Device, name: str) -> Device | None:
    """The device of the partition called ``name`` on ``disk``, or None when the table has none. Raises NotFound."""
    table = remembered(disk)
    partition = table.named(name) if table else None
    if partition is None:
        return None
    try:
        return node(disk, partition)
    except NotFound:
        forget(disk)
        raise


def extend(runner: Runner, disk: Device, new: Partition) -> None:
    """Add a partition at the end of a disk that became larger, while the others are in use.

    The whole table is written again, with all ids as they are, because the second copy belongs at the disk's new end.
    The place of the new partition is made unrecognisable first, as in ``write``; nothing else is touched.
    Raises NotFound, DeadlineExceeded.
    """
    table = read(disk)
    if table is None:
        raise NotFound(f"{disk.name} has no partition table", why="none was found at its beginning")
    block.zero(disk.path, new.start, min(4 * MIB, new.size))
    forget(disk)
    text = script((*table.partitions, new), disk.logical_block, table.guid)
    options = ["--quiet", "--no-reread", "--no-tell-kernel", "--lock=yes", "--wipe=never", "--wipe-partitions=never"]
    runner.run(["sfdisk", *options, disk.path], stdin=text)
    block.settle(runner)
    tell_kernel(runner, disk)


def script(partitions: Sequence[Partition], logical_block: int, label_id: str | None) -> str:
    """The input of sfdisk that writes ``partitions``: a new table with ``label_id``, or an addition when it is None."""
    lines = (
        []
        if label_id is None
        else ["label: gpt", f"label-id: {label_id.upper()}", f"first-lba: {MIB // logical_block}"]
    )
    for partition in partitions:
        start, size = partition.start // logical_block, partition.size // logical_block
        own = f", uuid={partition.guid.upper()}" if partition.guid else ""
        lines.append(f'start={start}, size={size}, name="{partition.name}"{own}')
    return "\n".join(lines) + "\n"


def write(runner: Runner, disk: Device, partitions: Sequence[Partition], label_id: str | None) -> None:
    """Write a new table (with ``label_id`` as its id), or add to the one there is (None).

    What lies in the places of the new partitions is made unrecognisable *before* the table is written: its first
    4 MiB become zero and known signatures go. So whatever is found later in a partition of ours, we put there.
    Raises DeadlineExceeded when the kernel does not take the new table over.
    """
    for partition in partitions:
        block.zero(disk.path, partition.start, min(4 * MIB, partition.size))
    forget(disk)
    text = script(partitions, disk.logical_block, label_id)
    append = [] if label_id is not None else ["--append"]
    options = ["--quiet", "--no-reread", "--no-tell-kernel", "--lock=yes", "--wipe=always", "--wipe-partitions=always"]
    if append:
        options.remove("--wipe=always")
    runner.run(["sfdisk", *options, *append, disk.path], stdin=text)
    block.settle(runner)
    tell_kernel(runner, disk)


def rename(runner: Runner, disk: Device, partition: Partition, name: str) -> None:
    """Give a partition that was read another name, while others of the disk are in use. Raises CommandFailed."""
    forget(disk)
    options = ["--quiet", "--no-reread", "--no-tell-kernel", "--lock=yes"]
    runner.run(["sfdisk", *options, "--part-label", disk.path, str(partition.number), name])


def delete(runner: Runner, disk: Device, names: Sequence[str]) -> None:
    """Take the partitions of these names out of the table; the others stay as they are, and may be in use.

    The kernel knows all of them (``tell_kernel``). Raises NotFound, CannotTell, CommandFailed, DeadlineExceeded.
    """
    table = read(disk)
    found = [partition for partition in (table.partitions if table else ()) if partition.name in names]
    devices = [node(disk, partition) for partition in found]
    numbers = [block.read_text(device.sysfs / "partition") for device in devices]
    forget(disk)
    runner.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--lock=yes", "--delete", disk.path, *numbers])
    block.settle(runner)
    for device, number in zip(devices, numbers, strict=True):
        # udev may have read the table again and taken it away by itself.
        if device.sysfs.exists():
            runner.run(["partx", "--delete", "--nr", number, disk.path], check=False)
    block.settle(runner)
    wait.until(
        lambda: not any(device.sysfs.exists() for device in devices), f"partitions of {disk.name} to go", deadline=15
    )


def tell_kernel(runner: Runner, disk: Device) -> None:
    """Make the kernel know all partitions of the table, also while others of them are in use."""
    table = read(disk)
    wanted = table.partitions if table else ()

    def known() -> bool:
        found = {(device.start, device.size) for device in block.partitions(disk)}
        return all((partition.start, partition.size) in found for partition in wanted)

    if not known():
        runner.run(["partx", "--update", disk.path], check=False)
        block.settle(runner)
    wait.until(known, f"the partitions of {disk.name}", deadline=15)


def random_guid() -> str:
    """A new id for a table."""
    return str(uuid.uuid4())
