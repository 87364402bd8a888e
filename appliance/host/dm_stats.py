"""Latency histograms of one device-mapper device, kept by the kernel and always on.

Source: ``Documentation/admin-guide/device-mapper/statistics.rst`` of Linux 6.12. Reads and writes are counted together.
"""

from collections.abc import Callable

from appliance.errors import CannotTell
from appliance.host.dm import Dm
from appliance.model import Histogram

PROGRAM = "hatchery"
BUCKETS = 24
"""Limits at 2, 4, 8 ... 2^24 us (16.8 s); one bucket more holds what took longer."""


def limits() -> tuple[int, ...]:
    """Upper limits of the buckets but the last, in microseconds."""
    return tuple(2 << power for power in range(BUCKETS))


def create(dm: Dm, name: str) -> None:
    """Begin to count for the whole device; fine if we do already."""
    if _region(dm, name) is None:
        nanoseconds = ",".join(str(limit * 1000) for limit in limits())
        dm.message(name, f"@stats_create - /1 2 precise_timestamps histogram:{nanoseconds} {PROGRAM}")


def read(dm: Dm, name: str, find: Callable[[Dm, str], int | None] | None = None) -> Histogram:
    """Requests by latency: one number for each limit and one for what took longer. Raises CannotTell.

    ``find`` tells where the device keeps them, if that is known to somebody.
    """
    region = (find or _region)(dm, name)
    if region is None:
        raise CannotTell(
            f"{name} keeps no latency histogram",
            why="it was activated without one",
            hint="deactivate and activate it again",
        )
    return parse_print(dm.message(name, f"@stats_print {region}"))


MOST_REMEMBERED = 4096


class Regions:
    """Where devices keep their histograms, remembered: to ask each time would double what a look at many costs."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int] = {}

    def read(self, dm: Dm, name: str, number: str) -> Histogram:
        """See ``read``. ``number`` is the device's: another one of the same name is asked anew."""

        def find(dm: Dm, name: str) -> int | None:
            region = self._known.get((name, number))
            if region is None and (region := _region(dm, name)) is not None:
                if len(self._known) >= MOST_REMEMBERED:
                    self._known.clear()  # most of these devices have gone
                self._known[name, number] = region
            return region

        return read(dm, name, find)


def clear(dm: Dm, name: str) -> None:
    """Begin again from zero."""
    region = _region(dm, name)
    if region is not None:
        dm.message(name, f"@stats_clear {region}")


def parse_list(text: str) -> int | None:
    """The id of our region in the reply to ``@stats_list``: ``ID: RANGE STEP PROGRAM AUX ...``, or None."""
    for line in text.splitlines():
        number, colon, rest = line.partition(":")
        if colon and PROGRAM in rest.split():
            return int(number)
    return None


def parse_print(text: str) -> Histogram:
    """The histogram in the reply to ``@stats_print``: the last column, numbers joined by colons. Raises CannotTell.

    The fourth and the eighth counter are the nanoseconds that all reads and all writes took.
    """
    words = text.split()
    try:
        counts = tuple(int(number) for number in words[-1].split(":"))
        seconds = (int(words[4]) + int(words[8])) / 1e9
    except (IndexError, ValueError) as error:
        raise CannotTell("a latency histogram cannot be read", why=repr(text[:200])) from error
    if len(counts) != BUCKETS + 1:
        raise CannotTell("a latency histogram has the wrong number of buckets", why=repr(text[:200]))
    return Histogram(counts, seconds)


def _region(dm: Dm, name: str) -> int | None:
    return parse_list(dm.message(name, f"@stats_list {PROGRAM}"))
