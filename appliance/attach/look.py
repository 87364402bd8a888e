"""A look into a disk: its partitions and what each holds, and nothing else of it.

The kernel gets a device of its own for the look. Nobody can write to it, also where the export would take writes, and
the kernel takes it away when this process ends, however that comes. Nothing is mounted or activated: what the guest
wrote is judged by blkid and sfdisk, which run as a user who is nobody else, without a group or a capability, and who
may open that one device to read it.

Source of the formats: blkid(8), ``--output export``; sfdisk(8), ``--json``.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.attach.connection import connections
from appliance.attach.handshake import Flags
from appliance.attach.target import Target
from appliance.errors import Refused, Unhealthy
from appliance.host import device_access, nbd
from appliance.host.nbd import Claim, Device, Kernel, Wanted
from appliance.model import Access
from appliance.run import Runner

SECONDS = 30
"""How long a program may look at a time: of processor time, and altogether."""

MEMORY_BYTES = 512 << 20
"""What such a program may use."""

MOST_PARTITIONS = 128
"""As many as a partition table has by default; further ones are not looked at."""

_MARK = "#look"
"""What the identifier of such a device ends in, which no URI of ours does: it is not taken for an attached one."""

_PATIENCE = 10
"""Seconds that reads wait for a server that went away: nobody's guest waits for them."""

_FIRST_USER = 2_000_000_000
"""Users from here on belong to nobody: the range is past those of containers (systemd, UIDS-GIDS)."""

_NOTHING_FOUND, _AMBIVALENT = 2, 8
"""Exit statuses of blkid when it probes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A disk as a whole (``number`` 0) or a partition of it; ``start`` and ``size`` in bytes.

    ``holds`` is what blkid calls it: a file system, a member of an array, a partition table; empty for nothing that it
    knows. ``name`` is that of a partition, ``label`` and ``uuid`` are those of what it holds.
    """

    number: int
    start: int
    size: int
    name: str = ""
    holds: str = ""
    label: str = ""
    uuid: str = ""


def look(target: Target, kernel: Kernel, runner: Runner) -> tuple[Part, ...]:
    """The disk and its partitions. Raises what ``connections`` and ``Kernel`` raise, InUse, Refused, Unhealthy."""
    with shown(target, kernel) as device:
        user = _FIRST_USER + os.getpid()
        device_access.let_in(device.path, user, Access.READ_ONLY)
        try:
            return _parts(device, user, runner)
        finally:
            # Nodes of the kernel's NBD client stay, for the next device of that number.
            device_access.shut_out(device.path, user)


@contextmanager
def shown(target: Target, kernel: Kernel) -> Iterator[Device]:
    """A device for a look, held for this process alone. Raises as ``look``."""
    identifier = target.identifier + _MARK
    with connections(target, 1) as made:
        if made.export.size < nbd.BLOCK_BYTES:
            why = "it has 0 bytes, and the kernel makes no such device"
            raise Refused(f"{target.export} is empty", why=why, hint="give it a size first")
        flags = made.export.flags | Flags.READ_ONLY
        index = kernel.connect(Wanted(identifier, made.export.size, flags, _PATIENCE), made.sockets)
        try:
            device = _made(index, identifier)
            claim = Claim(device)
        except BaseException:
            kernel.disconnect(index)
            raise
        with claim:
            try:
                kernel.end_with_us(index, identifier)
                yield device
            finally:
                # While it is held: afterwards the number may be somebody else's.
                kernel.disconnect(index)


def _made(index: int, identifier: str) -> Device:
    """The device that the kernel made. Raises Refused when it is not what was asked for."""
    device = nbd.look(index)
    if device is None or device.identifier != identifier or not device.read_only:
        why = "it is writable, or has no identifier"
        raise Refused("the kernel makes no device for a look", why=why, hint="it takes Linux 5.14 or newer")
    return device


def _parts(device: Device, user: int, runner: Runner) -> tuple[Part, ...]:
    whole, has_table = _judge(device, Part(0, 0, device.size), user, runner)
    if not has_table:
        return (whole,)
    said = runner.run(as_nobody(user, "sfdisk", "--json", device.path), timeout=SECONDS, check=False).stdout
    parts = partitions(said, device.size)
    return (whole, *(_judge(device, part, user, runner)[0] for part in parts))


def as_nobody(user: int, *words: str | Path) -> list[str | Path]:
    """A command as a user who may do nothing but what the device's list lets him do, and not without end."""
    confined = [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    limits = [f"--as={MEMORY_BYTES}", f"--cpu={SECONDS}", "--fsize=0", "--core=0"]
    return ["setpriv", *confined, "--no-new-privs", "prlimit", *limits, *words]


def _judge(device: Device, part: Part, user: int, runner: Runner) -> tuple[Part, bool]:
    """A part with what it holds, and whether it has a partition table. Raises Unhealthy when it cannot be read."""
    place = [f"--offset={part.start}", f"--size={part.size}"] if part.number else []
    argv = as_nobody(user, "blkid", "--probe", "--output", "export", *place, device.path)
    done = runner.run(argv, timeout=SECONDS, check=False)
    if done.returncode == _AMBIVALENT:
        return _with(part, {"TYPE": "several signatures"}), False
    if done.returncode not in (0, _NOTHING_FOUND) or done.stderr.strip():
        why = done.stderr.strip() or f"blkid ended with status {done.returncode}"
        raise Unhealthy(f"{device.path} cannot be looked into", why=why, hint="see `dmesg`; try again")
    found = values(done.stdout)
    return _with(part, found), "PTTYPE" in found


def _with(part: Part, found: dict[str, str]) -> Part:
    kind = found.get("TYPE") or (f"{found['PTTYPE']} partition table" if "PTTYPE" in found else "")
    uuid = found.get("UUID") or found.get("PTUUID", "")
    return Part(part.number, part.start, part.size, part.name, kind, found.get("LABEL", ""), uuid)


def values(text: str) -> dict[str, str]:
    """What ``blkid --output export`` prints, without its backslashes; characters that cannot be shown are blanks."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: printable(re.sub(r"\\(.)", r"\1", value)) for name, _, value in pairs}


def partitions(text: str, size: int) -> tuple[Part, ...]:
    """The partitions that ``sfdisk --json`` prints, as far as they lie on a disk of ``size`` bytes.

    There are none when it could not read the table: a guest may write what he likes.
    """
    try:
        table = json.loads(text)["partitiontable"]
        sector = int(table.get("sectorsize", 512))
        found = [
            Part(number, int(each["start"]) * sector, int(each["size"]) * sector, printable(str(each.get("name", ""))))
            for each in table.get("partitions", [])
            if (number := _number(str(each["node"])))
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    inside = [part for part in found if part.start >= 0 and part.size > 0 and part.start + part.size <= size]
    return tuple(sorted(inside, key=lambda part: part.number)[:MOST_PARTITIONS])


def _number(node: str) -> int:
    """The number at the end of a partition's node; 0 where there is none."""
    found = re.search(r"p(\d+)$", node)
    return int(found[1]) if found else 0


def printable(text: str) -> str:
    """Words of a guest, which must not move anybody's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)[:200]
