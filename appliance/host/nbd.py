"""The kernel's NBD client: devices made, given new sockets and taken away by generic netlink; what sysfs says of them.

Source of the messages: Linux, include/uapi/linux/nbd-netlink.h; of what the kernel does with them:
drivers/block/nbd.c of 6.12. They are written with pyroute2's own classes, since it has no module for NBD.
"""

import errno
import os
import select
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from appliance.errors import CannotTell, InUse, NotFound, NotReady, Refused, Unhealthy
from appliance.host import kernel_events

FAMILY, VERSION, GROUP = "nbd", 1, "nbd_mc_group"
"""Names of the netlink family and of its multicast group."""

CONNECT, DISCONNECT, RECONFIGURE, LINK_DEAD, STATUS = range(1, 6)
"""NBD_CMD_*: commands, and the event that a connection died."""

BLOCK_BYTES = 512
"""The size of blocks that devices get: what guests see their disks with."""

KERNELS_TIMER_MS = 30_000
"""The block layer's timer for a request where nothing else is set."""

_DISCONNECT_ON_CLOSE = 1 << 1
"""NBD_CFLAG_DISCONNECT_ON_CLOSE."""

_MODULE = Path("/sys/module/nbd")
_BLOCK = Path("/sys/block")
_NETLINK_GENERIC = 16
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1


class _Sockets(nla):  # type: ignore[misc]  # pyroute2 has no types
    """NBD_ATTR_SOCKETS."""

    nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

    class item(nla):  # type: ignore[misc]  # noqa: N801 - pyroute2 finds it by the name in the map
        """NBD_SOCK_ITEM."""

        nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


# pyroute2 ships no types, so that what is made of its classes has none either.
class _Devices(nla):  # type: ignore[misc]
    """NBD_ATTR_DEVICE_LIST."""

    nla_map = (("NBD_DEVICE_ITEM_UNSPEC", "none"), ("NBD_DEVICE_ITEM", "item"))

    # By this name in lower case pyroute2 finds it.
    class item(nla):  # type: ignore[misc]  # noqa: N801
        """NBD_DEVICE_ITEM."""

        nla_map = (
            ("NBD_DEVICE_UNSPEC", "none"),
            ("NBD_DEVICE_INDEX", "uint32"),
            ("NBD_DEVICE_CONNECTED", "uint8"),
        )


# As above.
class Message(genlmsg):  # type: ignore[misc]
    """A message of the family, either way."""

    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "devices"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )
    sockets = _Sockets
    devices = _Devices


def message(command: int, *attributes: tuple[str, object]) -> Message:
    """A message for the kernel; attributes without their prefix NBD_ATTR_."""
    made = Message()
    made["cmd"] = command
    made["version"] = VERSION
    made["attrs"] = [(f"NBD_ATTR_{name}", value) for name, value in attributes]
    return made


def file_descriptors(numbers: Iterable[int]) -> tuple[str, object]:
    """The attribute that hands sockets over."""
    return "SOCKETS", {"attrs": [("NBD_SOCK_ITEM", {"attrs": [("NBD_SOCK_FD", number)]}) for number in numbers]}


def dead(packet: bytes) -> int | None:
    """The index of the device of which an event says that a connection died; None for other events."""
    event = Message(packet)
    event.decode()
    index = event.get_attr("NBD_ATTR_INDEX")
    return int(index) if event["cmd"] == LINK_DEAD and index is not None else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new device is to be.

    ``identifier`` is what it is found by later. ``flags`` are the server's. ``patience``: seconds that requests wait
    while no connection is alive, before they fail.
    """

    identifier: str
    size: int
    flags: int
    patience: int


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is in use by the kernel's client. ``identifier`` is None where its maker gave it none."""

    index: int
    identifier: str | None
    size: int
    read_only: bool

    @property
    def path(self) -> Path:
        """Its device node."""
        return Path(f"/dev/nbd{self.index}")


def look(index: int) -> Device | None:
    """What sysfs says of a device; None where there is none of that index."""
    folder = _BLOCK / f"nbd{index}"
    try:
        size = int((folder / "size").read_text(encoding="ascii")) * 512
        read_only = (folder / "ro").read_text(encoding="ascii").strip() != "0"
    except OSError:
        return None
    try:
        identifier = (folder / "backend").read_text(encoding="utf-8", errors="replace").rstrip("\n") or None
    except OSError:
        identifier = None
    return Device(index, identifier, size, read_only)


def set_timer(index: int, milliseconds: int) -> None:
    """How often the kernel looks after a request that has no answer yet. Raises Unhealthy."""
    try:
        (_BLOCK / f"nbd{index}/queue/io_timeout").write_text(f"{milliseconds}\n", encoding="ascii")
    except OSError as error:
        raise Unhealthy(f"the timer of nbd{index} cannot be set", why=str(error)) from error


class Claim:
    """A device held against mounts and whoever else wants it for himself, its written pages flushed."""

    def __init__(self, device: Device) -> None:
        """Raises InUse when somebody has it for himself, Unhealthy."""
        try:
            self._handle = os.open(device.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                hint = "unmount it, or take down what lies on it (`lsblk` shows that)"
                raise InUse(
                    f"{device.path} is in use", why="it is mounted, or part of another device", hint=hint
                ) from error
            raise Unhealthy(f"{device.path} cannot be opened", why=str(error)) from error
        try:
            os.fsync(self._handle)
        except OSError as error:
            os.close(self._handle)
            hint = "with --force it is detached all the same, and what was not written is lost"
            raise Unhealthy(f"{device.path} cannot be flushed", why=str(error), hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


class Kernel:
    """The kernel's NBD client. A context manager."""

    def __init__(self) -> None:
        """Raises NotReady when the module is not loaded."""
        if not _MODULE.is_dir():
            hint = "load it: `modprobe nbd`, and at each start by a file in /etc/modules-load.d"
            raise NotReady("the kernel has no NBD client", why="its module nbd is not loaded", hint=hint)
        self._netlink = GenericNetlinkSocket()
        try:
            self._netlink.bind(FAMILY, Message)
        except (NetlinkError, OSError) as error:
            self._netlink.close()
            raise CannotTell("the kernel's NBD client does not answer", why=str(error)) from error

    def connect(self, wanted: Wanted, sockets: Iterable[socket.socket]) -> int:
        """A new device over sockets that are through the handshake; its index, which the kernel picks.

        Requests have no time limit: with one, the kernel would send a slow write again, and the first could come
        after the second and undo what was written since. Raises Refused, Unhealthy.
        """
        replies = self._ask(
            NLM_F_REQUEST,
            CONNECT,
            ("SIZE_BYTES", wanted.size),
            ("BLOCK_SIZE_BYTES", BLOCK_BYTES),
            ("TIMEOUT", 0),
            ("SERVER_FLAGS", wanted.flags),
            ("DEAD_CONN_TIMEOUT", wanted.patience),
            ("BACKEND_IDENTIFIER", wanted.identifier),
            file_descriptors(stream.fileno() for stream in sockets),
        )
        return int(replies[0].get_attr("NBD_ATTR_INDEX"))

    def reconfigure(self, index: int, identifier: str, size: int, sockets: Iterable[socket.socket]) -> None:
        """Offer new sockets for those that died, and the size. Those that are not needed are left alone.

        Raises Refused, Unhealthy.
        """
        self._ask(
            NLM_F_REQUEST | NLM_F_ACK,
            RECONFIGURE,
            ("INDEX", index),
            ("BACKEND_IDENTIFIER", identifier),
            ("SIZE_BYTES", size),
            file_descriptors(stream.fileno() for stream in sockets),
        )

    def end_with_us(self, index: int, identifier: str) -> None:
        """Have a device taken away when the last who has it open closes it, or ends. Raises Refused, Unhealthy.

        It is not asked for when the device is made: somebody else could be the first to open and close it.
        """
        flags = ("CLIENT_FLAGS", _DISCONNECT_ON_CLOSE)
        self._ask(NLM_F_REQUEST | NLM_F_ACK, RECONFIGURE, ("INDEX", index), ("BACKEND_IDENTIFIER", identifier), flags)

    def disconnect(self, index: int) -> None:
        """Take a device's connections away; requests that wait fail. Raises Refused, Unhealthy."""
        self._ask(NLM_F_REQUEST | NLM_F_ACK, DISCONNECT, ("INDEX", index))

    def devices(self) -> tuple[Device, ...]:
        """Devices that are in use, by their index. Raises CannotTell."""
        items = [
            item
            for reply in self._ask(NLM_F_REQUEST, STATUS)
            for item in reply.get_attr("NBD_ATTR_DEVICE_LIST").get_attrs("NBD_DEVICE_ITEM")
        ]
        used = sorted(item.get_attr("NBD_DEVICE_INDEX") for item in items if item.get_attr("NBD_DEVICE_CONNECTED"))
        return tuple(found for index in used if (found := look(index)) is not None)

    def find(self, identifier: str) -> Device | None:
        """The device that was made with an identifier."""
        return next((device for device in self.devices() if device.identifier == identifier), None)

    def events(self) -> "Events":
        """Deaths of connections, from now on."""
        return Events(self._netlink.mcast_groups[GROUP])

    def close(self) -> None:
        """End the conversation. Devices stay."""
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, flags: int, command: int, *attributes: tuple[str, object]) -> tuple[Any, ...]:
        try:
            asked = message(command, *attributes)
            return tuple(self._netlink.nlm_request(asked, msg_type=self._netlink.prid, msg_flags=flags))
        except NetlinkError as error:
            if error.code == errno.EPERM:
                why = "devices are made and taken away with the capability CAP_SYS_ADMIN alone"
                raise Refused("the kernel refuses it", why=why, hint="run it as root") from error
            raise Unhealthy("the kernel refuses it", why=str(error), hint="see `dmesg`") from error
        except OSError as error:
            raise Unhealthy("the kernel cannot be asked", why=str(error)) from error


class Events:
    """What the kernel tells of dead connections, from the moment of opening on. A context manager."""

    def __init__(self, group: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_GENERIC)
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self._socket.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait until there is an event to receive; False when there was none in that time."""
        return bool(select.select([self._socket], [], [], max(0.0, seconds))[0])

    def receive(self) -> frozenset[int] | None:
        """Indexes of devices of which a connection died; None when events were lost."""
        packets = kernel_events.drain(self._socket)
        if packets is None:
            return None
        return frozenset(index for packet in packets if (index := dead(packet)) is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def by_path(path: str) -> int:
    """The index that a device's path names: /dev/nbd0, or a link to it. Raises NotFound."""
    name = Path(path).resolve().name
    if not name.removeprefix("nbd").isdigit() or not name.startswith("nbd"):
        hint = "`hatchery-attach --list` shows which there are"
        raise NotFound(f"{path} is no device of the kernel's NBD client", hint=hint)
    return int(name.removeprefix("nbd"))
