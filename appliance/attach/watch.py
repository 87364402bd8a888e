"""Standing by a device: when a connection dies, the kernel gets a new one, and requests have only waited.

Who dies here leaves the device as it is, and the next one that stands by goes on with it. Who is told to stop by
SIGTERM detaches it, unless it is in use.
"""

import logging
import signal
import threading
from types import FrameType
from typing import NoReturn

from appliance.attach import attachment
from appliance.attach.attachment import Options
from appliance.attach.target import Target
from appliance.errors import HatcheryError, NotReady
from appliance.host.nbd import Device, Events, Kernel
from appliance.host.notify import notify

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""How often is looked whether the device is still ours: the kernel does not tell when it is detached."""

_PAUSES = (0.1, 0.2, 0.5, 1.0)
"""Seconds between tries to reach the server; the last one again and again."""


class Stop(BaseException):
    """SIGTERM came. Nobody on the way catches it for an error of his own."""


def on_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    """The handler of SIGTERM: once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stop


def watch(target: Target, options: Options, kernel: Kernel) -> None:
    """Attach, say so, and stand by until somebody detaches the device, or SIGTERM comes.

    Raises what ``attach`` raises, but for a server that cannot be reached: that one is waited for. After SIGTERM,
    raises what ``detach`` raises.
    """
    device = None
    try:
        with kernel.events() as events:
            device = _attach(target, options, kernel)
            log.info("%s is %s", device.path, target.identifier)
            notify("READY=1", f"STATUS={device.path}")
            _stand_by(device, events, target, options, kernel)
            log.info("%s was detached", device.path)
    except Stop:
        if device is not None:
            # Another conversation: in the first one, something may just have been asked.
            with Kernel() as fresh:
                attachment.detach(device, fresh, force=False)


def _stand_by(device: Device, events: Events, target: Target, options: Options, kernel: Kernel) -> None:
    died = lately = False
    while attachment.still(device.index, target) is not None:
        if died or lately:
            _renew(device, target, options, kernel)
        # Once more at the next quiet look: the kernel tells of a death just before it counts it.
        lately = died
        died = events.wait(_LOOK_SECONDS) and _concerns(device, events)


def _concerns(device: Device, events: Events) -> bool:
    """Whether a connection of the device died. When events were lost, one may have."""
    died = events.receive()
    return died is None or device.index in died


def _attach(target: Target, options: Options, kernel: Kernel) -> Device:
    tries = _Tries()
    while True:
        try:
            return attachment.attach(target, options, kernel)
        except NotReady as error:
            tries.failed(error)


def _renew(device: Device, target: Target, options: Options, kernel: Kernel) -> None:
    """Try until the kernel has its connections again, or the device is gone."""
    tries = _Tries()
    notify(f"STATUS={device.path} waits for {target.server}")
    while attachment.still(device.index, target) is not None:
        try:
            attachment.renew(device.index, target, options, kernel)
        except HatcheryError as error:
            tries.failed(error)
            continue
        log.info("%s has its connections", device.path)
        notify(f"STATUS={device.path}")
        return


class _Tries:
    """Failed tries: each reason is logged once, and each is followed by a pause."""

    def __init__(self) -> None:
        self._count = 0
        self._said = ""

    def failed(self, error: HatcheryError) -> None:
        """Say why, unless it was said, and pause."""
        if str(error) != self._said:
            self._said = str(error)
            log.warning("%s", error)
        threading.Event().wait(_PAUSES[min(self._count, len(_PAUSES) - 1)])
        self._count += 1
