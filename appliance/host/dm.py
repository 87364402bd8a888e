"""Device-mapper, by ioctl on ``/dev/mapper/control``: no process is started, which matters while a system disk dies.

Sources: ``include/uapi/linux/dm-ioctl.h`` and ``drivers/md/dm-ioctl.c`` of Linux 6.12. Lengths in tables are sectors of
512 bytes. Events carry no udev cookie: what udev may do with our devices is said by rules that match their uuids
(``HATCHERY-...``, rule 5), and the end of its work is seen on the node itself.

The kernel's errors become the project's, wherever they are certain:

    ENXIO, ENODEV, ENODATA, ENOENT  NotFound        EBUSY  InUse (AlreadyExists when creating)
    EEXIST                          AlreadyExists   ENOSPC NoSpace
    EPERM, EACCES                   Refused         other  Unhealthy
"""

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from appliance import wait
from appliance.errors import AlreadyExists, HatcheryError, InUse, NoSpace, NotFound, NotReady, Refused, Unhealthy
from appliance.host.dm_ioctl import (
    HEADER_BYTES,
    Answer,
    Command,
    DeviceNumber,
    Entry,
    Flag,
    Info,
    Target,
    pack,
    pack_message,
    pack_targets,
    unpack,
    unpack_deps,
    unpack_names,
    unpack_targets,
)
from appliance.model import Access

__all__ = ["DeviceNumber", "Dm", "Entry", "Flush", "Info", "Slot", "Target"]

_ROOM = 16 * 1024
_ROOM_MAX = 64 * 1024 * 1024
_NODE_DEADLINE = 15.0
_NOT_FOUND = frozenset({errno.ENXIO, errno.ENODEV, errno.ENODATA, errno.ENOENT})


class Flush(Enum):
    """What happens to I/O in flight, and to uncommitted pool metadata, before a suspend or a status."""

    FLUSH = "flush"
    NO_FLUSH = "no-flush"


class Slot(Enum):
    """The two places of a device's tables."""

    LIVE = "live"
    INACTIVE = "inactive"


class Dm:
    """The control device. Opened once; every verb is one ioctl or a short sequence of them."""

    def __init__(self, dev: Path = Path("/dev"), udev: Path = Path("/run/udev/control")) -> None:
        self._folder = dev / "mapper"
        self._dev = dev
        self._udev = udev
        control = self._folder / "control"
        try:
            self._fd = os.open(control, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NotReady(
                f"cannot open {control}", why=error.strerror or str(error), hint="run as root; load the module dm_mod"
            ) from error

    def close(self) -> None:
        """Close the control device."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Events

    def fileno(self) -> int:
        """For ``select``: readable once any device has had an event since ``arm_events``."""
        return self._fd

    def arm_events(self) -> None:
        """From now on count events: arm first, then look, then wait, and nothing is missed."""
        self._do(Command.DEV_ARM_POLL, pack(), "wait for events")

    # Looking

    def path(self, name: str) -> Path:
        """Where the device of that name is, or would be: ``/dev/mapper/NAME``."""
        return self._folder / name

    def version(self) -> tuple[int, int, int]:
        """Version of the kernel's device-mapper interface."""
        return self._do(Command.VERSION, pack(), "ask for device-mapper's version").version

    def list(self) -> tuple[Entry, ...]:
        """All device-mapper devices."""
        answer = self._read(Command.LIST_DEVICES, "", b"", Flag.UUID, "list the device-mapper devices")
        return unpack_names(answer.data)

    def info(self, name: str) -> Info:
        """Facts about one device. Raises NotFound."""
        return self._do(Command.DEV_STATUS, pack(name), f"look at {name}").info

    def find(self, name: str) -> Info | None:
        """Facts about one device, or None when there is none of that name."""
        try:
            return self.info(name)
        except NotFound:
            return None

    def table(self, name: str) -> tuple[Target, ...]:
        """The table in use; empty when there is none. Raises NotFound."""
        flags = Flag.STATUS_TABLE | Flag.NO_FLUSH
        return self._targets(self._read(Command.TABLE_STATUS, name, b"", flags, f"read the table of {name}"))

    def status(self, name: str, flush: Flush = Flush.NO_FLUSH, slot: Slot = Slot.LIVE) -> tuple[Target, ...]:
        """The status of each target. With FLUSH a thin pool commits first, which may block. Raises NotFound."""
        flags = Flag.NO_FLUSH if flush is Flush.NO_FLUSH else Flag.NONE
        if slot is Slot.INACTIVE:
            flags |= Flag.QUERY_INACTIVE
        return self._targets(self._read(Command.TABLE_STATUS, name, b"", flags, f"read the status of {name}"))

    def deps(self, name: str) -> tuple[DeviceNumber, ...]:
        """The devices that the table in use refers to. Raises NotFound."""
        return unpack_deps(self._read(Command.TABLE_DEPS, name, b"", Flag.NONE, f"read what {name} uses").data)

    # Changing

    def create(
        self,
        name: str,
        uuid: str,
        targets: Sequence[Target],
        *,
        access: Access = Access.READ_WRITE,
    ) -> Path:
        """Make a device with a table in use and wait for its node; return the node's path.

        Nothing is left when it fails. Raises AlreadyExists when the name or the uuid is taken.
        """
        self.create_empty(name, uuid)
        try:
            self.load(name, targets, access=access)
            return self.resume(name)
        except BaseException:
            self._discard(name)
            raise

    def create_empty(self, name: str, uuid: str) -> None:
        """Make a device without a table, to try tables on with ``load``. Raises AlreadyExists."""
        try:
            self._do(Command.DEV_CREATE, pack(name, uuid=uuid), f"create {name}")
        except InUse as error:
            raise AlreadyExists(f"cannot create {name}", why="a device has this name or uuid already") from error

    def load(self, name: str, targets: Sequence[Target], *, access: Access = Access.READ_WRITE) -> None:
        """Put a table into the inactive slot; ``resume`` brings it into use. Raises NotFound.

        The kernel opens what the table refers to, so a missing thin device or disk is found here: NotFound too.
        """
        flags = Flag.READ_ONLY if access is Access.READ_ONLY else Flag.NONE
        request = pack(name, flags=flags, target_count=len(targets), data=pack_targets(targets))
        self._do(Command.TABLE_LOAD, request, f"load the table of {name}: {'; '.join(map(str, targets))}")

    def clear(self, name: str) -> None:
        """Drop the table in the inactive slot, if any. Raises NotFound."""
        self._do(Command.TABLE_CLEAR, pack(name), f"clear the inactive table of {name}")

    def reload(
        self,
        name: str,
        targets: Sequence[Target],
        *,
        access: Access = Access.READ_WRITE,
        flush: Flush = Flush.FLUSH,
    ) -> None:
        """Exchange the table: load, suspend, resume. A refused table leaves the old one running. Raises NotFound."""
        self.load(name, targets, access=access)
        try:
            self.suspend(name, flush)
        except BaseException:
            self.clear(name)
            raise
        self.resume(name)

    def suspend(self, name: str, flush: Flush = Flush.FLUSH) -> None:
        """Hold the device's I/O. With FLUSH what is in flight completes first. Raises NotFound."""
        flags = Flag.SUSPEND | Flag.SKIP_LOCKFS
        if flush is Flush.NO_FLUSH:
            flags |= Flag.NO_FLUSH
        self._do(Command.DEV_SUSPEND, pack(name, flags=flags), f"suspend {name}")

    def resume(self, name: str) -> Path:
        """Bring the inactive table, if any, into use and let I/O go on; return the node's path. Raises NotFound."""
        answer = self._do(Command.DEV_SUSPEND, pack(name), f"resume {name}")
        return self._await_node(name, answer.info.number)

    def remove(self, name: str, *, deadline: float = 0.0) -> None:
        """Remove the device; fine when there is none. Raises InUse when it is still open after ``deadline`` seconds.

        A deadline is for devices that somebody is about to close: udev after an event, a process that ends.
        """
        request = f"remove {name}"

        def attempt() -> bool:
            try:
                self._do(Command.DEV_REMOVE, pack(name), request)
            except NotFound:
                pass
            except InUse:
                if deadline <= 0:
                    raise
                return False
            return True

        if deadline > 0:
            try:
                wait.until(attempt, f"{name} to be closed", deadline=deadline)
            except HatcheryError as error:
                raise InUse(f"cannot {request}", why=f"still open after {deadline:g} s") from error
        else:
            attempt()
        self._await_no_node(name)

    def message(self, name: str, text: str, *, sector: int = 0) -> str:
        """Send a message to the target at ``sector``; return its reply, often empty. Raises NotFound."""
        data = pack_message(text, sector)
        answer = self._read(Command.TARGET_MSG, name, data, Flag.NONE, f"send {text!r} to {name}")
        if Flag.DATA_OUT not in answer.info.flags:
            return ""
        return answer.data.partition(b"\0")[0].decode("utf-8", "replace")

    # Inside

    @staticmethod
    def _targets(answer: Answer) -> tuple[Target, ...]:
        return unpack_targets(answer.data, answer.info.target_count)

    def _do(self, command: Command, request: bytearray, what: str) -> Answer:
        try:
            fcntl.ioctl(self._fd, command.request, request)
        except OSError as error:
            _fail(error, what)
        return unpack(request)

    def _read(self, command: Command, name: str, data: bytes, flags: Flag, what: str) -> Answer:
        room = _ROOM
        while True:
            answer = self._do(command, pack(name, flags=flags, data=data, room=room), what)
            if Flag.BUFFER_FULL not in answer.info.flags:
                return answer
            room *= 4
            if room > _ROOM_MAX:
                raise Unhealthy(f"cannot {what}", why=f"the answer is larger than {_ROOM_MAX - HEADER_BYTES} bytes")

    def _discard(self, name: str) -> None:
        try:
            self.remove(name, deadline=2.0)
        except HatcheryError:
            # The first error is the one to report; the half-made device shows up in `list`.
            return

    def _await_node(self, name: str, number: DeviceNumber) -> Path:
        path = self.path(name)
        wanted = os.makedev(number.major, number.minor)
        if not self._udev.exists():
            self._make_node(path, number)
        if not _is_device(path, wanted):
            wait.until(lambda: _is_device(path, wanted), f"{path} to be {number}", deadline=_NODE_DEADLINE)
        return path

    def _make_node(self, path: Path, number: DeviceNumber) -> None:
        """What udev would do: a link to the kernel's node, or a node of our own where /dev is not devtmpfs."""
        wanted = os.makedev(number.major, number.minor)
        if _is_device(path, wanted):
            return
        path.unlink(missing_ok=True)
        if _is_device(self._dev / number.node, wanted):
            path.symlink_to(f"../{number.node}")
        else:
            os.mknod(path, stat.S_IFBLK | 0o660, wanted)

    def _await_no_node(self, name: str) -> None:
        path = self.path(name)
        if not self._udev.exists():
            path.unlink(missing_ok=True)
            return
        wait.until(lambda: not os.path.lexists(path) or self.find(name), f"{path} to go", deadline=_NODE_DEADLINE)


def _is_device(path: Path, number: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return stat.S_ISBLK(found.st_mode) and found.st_rdev == number


def _fail(error: OSError, what: str) -> NoReturn:
    number = error.errno or 0
    why = os.strerror(number)
    message = f"cannot {what}"
    if number in _NOT_FOUND:
        raise NotFound(message, why=why) from error
    if number == errno.EBUSY:
        raise InUse(message, why=why) from error
    if number == errno.EEXIST:
        raise AlreadyExists(message, why=why) from error
    if number == errno.ENOSPC:
        raise NoSpace(message, why=why) from error
    if number in (errno.EPERM, errno.EACCES):
        raise Refused(message, why=why, hint="run as root") from error
    raise Unhealthy(message, why=why, hint="the kernel's log says more") from error
