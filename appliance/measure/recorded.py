"""Latency histograms around a measurement: of the appliance's disks by tracing, and of each clone by its device."""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from appliance.client import Client
from appliance.errors import HatcheryError, InUse, NotFound
from appliance.schema import Histograms, HistogramsRequest

SLACK = 300.0
"""Seconds that a recording may take longer than what it is about, before the appliance throws it away."""

_OWNER = re.compile(r"^process (\d+) of \S+, started at (\d+) of boot (\S+)$")


@contextmanager
def recording(client: Client, seconds: float, keep: Callable[[Histograms], None]) -> Iterator[None]:
    """Record in the block, which may take ``seconds``; what was recorded goes to ``keep`` when it ends well.

    One of a process of this machine that ended without stopping it is stopped. Raises InUse while another one records.
    """
    wanted = HistogramsRequest(owner=owner(), seconds=seconds + SLACK)
    try:
        client.start_histograms(wanted)
    except InUse:
        if not _left_behind(client):
            raise
        with suppress(NotFound):
            client.stop_histograms()
        client.start_histograms(wanted)
    try:
        yield
    except BaseException:
        with suppress(HatcheryError):  # the measurement's own failure is the news
            client.stop_histograms()
        raise
    keep(client.stop_histograms())


def owner() -> str:
    """This process, in words that tell it from every other of any machine."""
    pid = os.getpid()
    return f"process {pid} of {socket.gethostname()}, started at {_started(pid)} of boot {_boot()}"


def gone(name: str) -> bool:
    """Whether ``name`` is a process of this machine that has ended; false for all that cannot be known here."""
    found = _OWNER.match(name)
    return found is not None and found.group(3) == _boot() and found.group(2) != _started(int(found.group(1)))


def _left_behind(client: Client) -> bool:
    with suppress(NotFound):
        return gone(client.histograms().owner)
    return True


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot (proc(5), starttime); empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
