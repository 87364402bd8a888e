"""The reading of templates through the cache: who has the disks when several are to be read.

What boots wait for, a boot set or what somebody asked for, is read one at a time. A template that is read whole because
there is room for it comes behind all of that: it too is one at a time, and makes a pause while another is read.
"""

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from time import monotonic

from appliance.bootset import prefetch
from appliance.bootset.extents import sampled
from appliance.bootset.prefetch import Fetched, Surroundings
from appliance.catalog import Template
from appliance.model import Extent
from appliance.service.core import Core
from appliance.service.places import Places
from appliance.service.ports import CacheWatch

log = logging.getLogger(__name__)

TURN_LOOK = 0.2
"""Seconds from one look to the next at whether what waits for its turn is still wanted."""

GATE_LOOK = 0.02
"""Seconds from one look of what makes a pause to the next at whether it may go on."""

SAMPLE = 300
"""A look reads so many pages of a boot set, and finds a loss of one page in a hundred 95 times of 100. When any came
from the backend, all of the set is read, which costs it no more than what is missing."""

LOOKS = 3
"""Where guests' requests are always under way, nobody can tell for whom the backend read a page. Then other pages are
looked at, as many again, up to so many times in all: the same ones are in the cache by now."""

DOUBTED = 0.1
"""When the last of those looks tells no more, and the backend read for more than this share of its pages, all is read
too."""

PROOF = 32
"""Pages that are read through the template's volume after a prefetch that went past it."""

Progress = Callable[[int, int, int], None]
"""Is told the number of the pass, bytes that are in the cache or that it has read, and bytes in all."""


class Reading:
    """Reads extents of templates whose devices are there. ``cache_size``: bytes; None before a cache was seen."""

    def __init__(self, core: Core, ports: CacheWatch) -> None:
        self._ports = ports
        self._places = Places(core)
        self._turn = threading.Lock()
        self._behind = threading.Lock()
        self.cache_size: int | None = None

    def fetch(
        self,
        template: Template,
        device: Path,
        extents: Sequence[Extent],
        stop: threading.Event,
        tell: Progress,
        *,
        behind: Callable[[], bool],
    ) -> Fetched:
        """Read what the extents hold until all of it is in the cache; as long as ``behind``, others go first.

        Raises Unhealthy when it cannot be read.
        """
        with self._in_turn(stop, self._behind if behind() else self._turn):
            if stop.is_set():
                total = sum(extent.length for extent in extents)
                return Fetched(total, (), total, 0.0)
            around, begin = self._around(stop, behind), monotonic()

            def read(where: Path, places: Sequence[Extent]) -> Fetched:
                total = sum(extent.length for extent in places)
                return prefetch.fetch(where, places, around, lambda number, done: tell(number, done, total))

            where, places = self._places.of(template, device, extents)
            done = read(where, places)
            held = done.total if where != device else None
            if where != device and done.complete and not stop.is_set() and self._misses(device, extents, around):
                log.warning("template %s is not where it was read: it is read as a volume now", template.ref)
                self._places.forget(template)
                done, held = read(device, extents), None
            return replace(done, seconds=monotonic() - begin, held=held)

    def lost(
        self, template: Template, device: Path, extents: Sequence[Extent], stop: threading.Event, *, holes: bool
    ) -> bool:
        """Whether the cache has lost the extents: some pages are read here and there.

        That is cheap, and what is missing comes into the cache by it. Where guests leave it in doubt, other pages are
        read, as long as there are some, and they alone count then. ``holes``: the extents may have some, which no page
        is asked for.
        """
        if holes:
            device, extents = self._places.of(template, device, extents)
        for sample in _samples(extents):
            with self._in_turn(stop, self._turn):
                doubts = prefetch.read_once(device, sample, self._around(stop))
            alone = any(doubt.alone for doubt in doubts)
            if alone or not doubts or stop.is_set():
                break
        return alone or len(doubts) > DOUBTED * len(sample)

    def wait(self) -> None:
        """Wait until what was stopped reads no more."""
        for lock in (self._turn, self._behind):
            with lock:
                pass

    def _around(self, stop: threading.Event, behind: Callable[[], bool] = lambda: False) -> Surroundings:
        def gate() -> None:
            while behind() and self._turn.locked() and not stop.wait(GATE_LOOK):
                pass

        return Surroundings(self._ports.flow(), self._ports.guests, prefetch.room(self.cache_size or 0), stop, gate)

    def _misses(self, device: Path, extents: Sequence[Extent], around: Surroundings) -> bool:
        """Ask for some pages as a guest does: whether what was read was another thing."""
        sample = sampled(extents, PROOF, random.Random())  # noqa: S311 - nobody gains by guessing it
        return len(prefetch.read_once(device, sample, around)) > DOUBTED * len(sample)

    @staticmethod
    @contextlib.contextmanager
    def _in_turn(stop: threading.Event, turn: threading.Lock) -> Iterator[None]:
        """Alone; what is stopped while it waits goes on at once, and has to look."""
        while not (got := turn.acquire(timeout=TURN_LOOK)) and not stop.is_set():
            pass
        try:
            yield
        finally:
            if got:
                turn.release()


def _samples(extents: Sequence[Extent]) -> list[Sequence[Extent]]:
    """Pages for LOOKS looks, none of them for two, each in the disk's order; fewer looks where there are fewer pages,
    but one at least."""
    dice = random.Random()  # noqa: S311 - nobody gains by guessing it
    pages = list(sampled(extents, LOOKS * SAMPLE, dice))
    dice.shuffle(pages)  # each look is at all of the disk
    looks = [pages[at : at + SAMPLE] for at in range(0, max(1, len(pages) - SAMPLE + 1), SAMPLE)]
    return [sorted(look, key=attrgetter("offset")) for look in looks]
