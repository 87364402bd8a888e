"""What clones of a template, or of a client, have done together: it grows, whatever clones come and go meanwhile.

The kernel counts for each device, from when it is made to when it goes. A sum over those that are there would fall with
each clone that is detached, and a query would take that for a counter that began anew. So what each clone has done
since the last look is added up here, from zero on; what it did between the last look and its end is missing.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

from appliance.model import Histogram
from appliance.schema import CloneHistogram, CloneView, Counters, DeviceCounters

COUNTED = ("reads", "read_bytes", "writes", "write_bytes", "discards")

NOTHING = Histogram((0,) * 25, 0.0)
"""With a number for each limit that the kernel knows (``host.dm_stats``), so that each has a series from the start."""


@dataclass(slots=True)
class Work:
    """Requests and bytes, and how long requests took."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    write_bytes: int = 0
    discards: int = 0
    latencies: Histogram = NOTHING


class Totals:
    """Adds up. One scrape at a time: an older look after a newer one would be taken for a counter that began anew."""

    def __init__(self) -> None:
        self.after = ""
        """After which clone the latencies are gone on with."""
        self.templates: dict[str, Work] = {}
        self.clients: dict[str, Work] = {}
        self._devices: dict[str, DeviceCounters] | None = None
        self._latencies: dict[str, tuple[str, Histogram]] = {}
        """With the device whose they are."""
        self._older: dict[str, str] = {}
        """The devices that were there before the first look, while nobody has looked at their latencies."""

    def know(self, templates: Iterable[str], clients: Iterable[str]) -> None:
        """These there are, and no others: those that have gone are forgotten."""
        self.templates = {name: self.templates.get(name, Work()) for name in templates}
        self.clients = {name: self.clients.get(name, Work()) for name in clients}

    def take(self, clones: Iterable[CloneView], counters: Counters, latencies: Iterable[CloneHistogram]) -> None:
        """What is counted now; latencies are of some clones, or of all."""
        whose = {clone.name: clone for clone in clones}
        if self._devices is None:
            # What was done before is not known to be new: it would look like a burst of requests.
            self._devices = counters.clones
            self._older = {name: device.name for name, device in counters.clones.items()}
        before, self._devices = self._devices, dict(counters.clones)
        for name, device in counters.clones.items():
            for work in self._works(whose.get(name)):
                _add(work, before.get(name), device)
        for each in latencies:
            known = counters.clones.get(each.clone)
            if known is None:
                continue  # it came or went between the two answers
            more = self._more(each, known.name)
            for work in self._works(whose.get(each.clone)):
                work.latencies += more
        self._forget(counters.clones.keys())

    def _more(self, found: CloneHistogram, device: str) -> Histogram:
        """What a clone's latencies have gained."""
        now = Histogram(found.histogram.counts, found.histogram.seconds)
        owner, then = self._latencies.get(found.clone, (self._older.pop(found.clone, ""), now))
        self._latencies[found.clone] = device, now
        return now - then if owner == device else now

    def snapshot(self) -> tuple[dict[str, Work], dict[str, Work]]:
        """Those of templates and those of clients, as they are now."""
        templates, clients = ({n: replace(w) for n, w in of.items()} for of in (self.templates, self.clients))
        return templates, clients

    def _works(self, clone: CloneView | None) -> list[Work]:
        if clone is None:
            return []
        found = self.templates.get(clone.template), self.clients.get(clone.client or "")
        return [work for work in found if work is not None]

    def _forget(self, attached: Set[str]) -> None:
        for of in (self._latencies, self._older):
            for name in of.keys() - attached:
                del of[name]


def _add(work: Work, before: DeviceCounters | None, now: DeviceCounters) -> None:
    same = before is not None and before.name == now.name
    for word in COUNTED:
        counted: int = getattr(now, word)
        then: int = getattr(before, word) if same else 0
        # Counters begin anew with their device.
        setattr(work, word, getattr(work, word) + (counted - then if counted >= then else counted))
