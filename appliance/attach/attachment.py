"""Attaching, detaching, and what is attached. Devices of others are listed, and otherwise left alone."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from appliance.attach import target as targets
from appliance.attach.connection import Connections, connections
from appliance.attach.target import Target
from appliance.errors import HatcheryError, InvalidInput, NotFound, Refused, Unhealthy
from appliance.host import nbd
from appliance.host.nbd import Claim, Device, Kernel, Wanted

log = logging.getLogger(__name__)

PATIENCE = 600
"""Seconds that requests wait for a connection: as long as a guest's of QEMU do."""

MOST_CONNECTIONS = 16

_LOCK = Path("/run/hatchery-attach.lock")

_TIMER_MS = 3_000
"""With one connection: how long a request that a connection took with it lies, at most, after there is a new one."""

_TIMER_OF_MANY_MS = 90_000
"""With several, the kernel takes a connection for dead on which a request is as old as this, and sends the request
again on another one. A request that is merely slow must not come to that: the first could come after the second. So
it is longer than the appliance ever holds one."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to attach: ``patience`` in seconds, and how many ``connections`` if the server allows them."""

    patience: int = PATIENCE
    connections: int = 1


def attach(target: Target, options: Options, kernel: Kernel) -> Device:
    """The device of an export. One that is there gets connections for those that died, else one is made.

    Raises what ``connections`` and ``Kernel`` raise, and Refused when the export is not what the device was made of.
    """
    with connections(target, options.connections) as made, _alone():
        found = kernel.find(target.identifier)
        if found is not None:
            _offer(found, target, made, kernel)
            return found
        if len(made.sockets) < options.connections:
            log.warning("%s allows one connection alone", target.server)
        return _make(target, options, made, kernel)


def renew(index: int, target: Target, options: Options, kernel: Kernel) -> None:
    """New connections for those of a device that died; none if it was detached meanwhile. Raises as ``attach``."""
    with connections(target, options.connections) as made, _alone():
        # Under the lock: what is just being detached must not be brought back.
        device = still(index, target)
        if device is not None:
            _offer(device, target, made, kernel)


def still(index: int, target: Target) -> Device | None:
    """The device, if it is still the target's."""
    device = nbd.look(index)
    return device if device is not None and device.identifier == target.identifier else None


def _make(target: Target, options: Options, made: Connections, kernel: Kernel) -> Device:
    if made.export.size < nbd.BLOCK_BYTES:
        raise Refused(
            f"{target.export} is empty",
            why="it has 0 bytes, and the kernel makes no such device",
            hint="give it a size first",
        )
    wanted = Wanted(target.identifier, made.export.size, made.export.flags, options.patience)
    index = kernel.connect(wanted, made.sockets)
    try:
        nbd.set_timer(index, _TIMER_MS if len(made.sockets) == 1 else _TIMER_OF_MANY_MS)
        return _known(index, target)
    except BaseException:
        kernel.disconnect(index)
        raise


def _known(index: int, target: Target) -> Device:
    """The device that was just made, as it will be found again."""
    device = still(index, target)
    if device is None:
        hint = "it takes Linux 5.14 or newer"
        raise Refused("the kernel does not keep what a device is", why="it has no identifiers", hint=hint)
    return device


def _offer(device: Device, target: Target, made: Connections, kernel: Kernel) -> None:
    hint = "detach the device, and attach it anew"
    if made.export.size < device.size:
        why = f"it has {made.export.size} bytes, and had {device.size}"
        raise Refused(f"{target.export} became smaller", why=why, hint=hint)
    if made.export.read_only != device.read_only:
        now = "read-only" if made.export.read_only else "writable"
        raise Refused(f"{target.export} may no longer be used as it was", why=f"it is {now} now", hint=hint)
    kernel.reconfigure(device.index, target.identifier, made.export.size, made.sockets)


def ours(device: Device) -> bool:
    """Whether hatchery-attach made a device: its identifier is an NBD URI."""
    try:
        return device.identifier is not None and targets.parse(device.identifier).identifier == device.identifier
    except HatcheryError:
        return False


def named(text: str, kernel: Kernel) -> Device:
    """The device that a path or a URI names. Raises NotFound, InvalidInput, Refused for one that is not ours."""
    hint = "`hatchery-attach --list` shows what is attached"
    if "://" in text:
        found = kernel.find(targets.parse(text).identifier)
        if found is None:
            raise NotFound(f"{text} is not attached", hint=hint)
        return found
    index = nbd.by_path(text)
    device = next((device for device in kernel.devices() if device.index == index), None)
    if device is None:
        raise NotFound(f"nothing is attached to {text}", hint=hint)
    if not ours(device):
        why = "it has no identifier of ours"
        raise Refused(f"{text} was not made by hatchery-attach", why=why, hint="take it down with what made it")
    return device


def detach(device: Device, kernel: Kernel, *, force: bool) -> None:
    """Take a device away. Without ``force`` it is flushed first. Raises InUse, Unhealthy."""
    with _alone(), nullcontext() if force else Claim(device):
        _let_go(device, kernel)


def _let_go(device: Device, kernel: Kernel) -> None:
    try:
        # The timer is the device's and stays: whoever gets it next finds it as it was.
        nbd.set_timer(device.index, nbd.KERNELS_TIMER_MS)
    except Unhealthy as error:
        log.warning("%s", error)
    kernel.disconnect(device.index)


@contextmanager
def _alone() -> Iterator[None]:
    """One of us at a time, so that an export does not get two devices."""
    try:
        file = _LOCK.open("a", encoding="ascii")
    except OSError as error:
        raise Refused("devices cannot be changed", why=str(error), hint="run it as root") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check(options: Options) -> Options:
    """Options that make sense. Raises InvalidInput."""
    if not 1 <= options.connections <= MOST_CONNECTIONS:
        raise InvalidInput(
            f"{options.connections} connections cannot be had",
            why=f"one is needed, and the kernel is given {MOST_CONNECTIONS} at most",
            hint=f"give 1 to {MOST_CONNECTIONS}",
        )
    if options.patience < 1:
        raise InvalidInput(
            "requests must be allowed to wait for a second at least",
            why="shorter, every restart of the storage daemon would be an error in the guest",
            hint="give --dead-timeout 1 or more",
        )
    return options
