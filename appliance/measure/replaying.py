"""A recorded boot replayed by fresh clones, all at once: what storage alone takes, and what it costs the backend."""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from appliance.bootset.extents import pages_read
from appliance.bootset.trace import Read, format_trace
from appliance.client import Client
from appliance.errors import NotFound
from appliance.measure.facts import boot_set, facts
from appliance.measure.histogram import latencies
from appliance.measure.prepare import NOT_DROPPED, Begin, drop_page_cache, prepare
from appliance.measure.reach import Access, all_reachable, choose_client
from appliance.measure.recorded import recording
from appliance.measure.replay import replay
from appliance.measure.result import check_cold, delta, percent
from appliance.measure.together import Together
from appliance.model import MIB
from appliance.progress import QUIET, Bar
from appliance.run import Runner
from appliance.schema import CloneCreate, Histograms

LONGEST = 3600.0
"""Seconds that a replay may take: fifty boots from slow disks took one minute."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay, see ``session.Plan``; ``trace`` is what it is called."""

    template: str
    clones: int = 1
    begin: Begin = Begin.AS_IT_IS
    name: str = "replay"
    trace: str = "a trace"
    access: Access = field(default_factory=Access)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult(Together):
    """``seconds`` are those of the clones, in the order of their ``names``; ``trace_sha256`` is of what was read."""

    kind = "replay"
    done = "has read all"

    names: tuple[str, ...]
    seconds: tuple[float, ...]
    trace: str
    trace_sha256: str

    @property
    def times(self) -> tuple[tuple[str, float], ...]:
        """See Together."""
        return tuple(sorted(zip(self.names, self.seconds, strict=True), key=lambda each: each[1]))

    def heading(self) -> str:
        """See Together."""
        clones = len(self.seconds)
        plural = "s" if clones > 1 else ""
        return f"{self.trace} replayed by {clones} clone{plural} of {self.template} at once, cache {self.begin}"

    def text(self) -> str:
        """See Together."""
        backend, added = self.backend_bytes / MIB, self.cache_added_bytes / MIB
        lines = [
            f"{self.heading()}: {self.requests:,} requests, {self.read_bytes / MIB:.1f} MiB",
            f"done after: first {self.first:.2f} s, median {self.median:.2f} s, last {self.last:.2f} s",
            f"from the backend {backend:.1f} MiB, into the cache {added:.1f} MiB",
            f"hits: {percent(self.hit_rate_bytes)} of the bytes",
        ]
        return "\n".join([*lines, *self.closing()]) + "\n"


def run(
    client: Client,
    plan: Plan,
    reads: Sequence[Read],
    *,
    host: str | None,
    runner: Runner,
    tell: Callable[[str], None],
    bar: Bar = QUIET,
) -> ReplayResult:
    """Replay with fresh clones, which are removed afterwards, also when it fails.

    Raises as ``replay``, ``check_cold`` and the API.
    """
    template = client.template(plan.template)
    about = facts(client.status(), "none, requests by libnbd")
    notes: list[str] = []
    recorded: list[Histograms] = []

    def note(text: str) -> None:
        notes.append(text)
        tell(f"note: {text}")

    chosen = choose_client(client, plan.access, host, note)
    if plan.begin is not Begin.AS_IT_IS and os.geteuid() != 0:
        note(NOT_DROPPED)
    # A trace may be of any template, and no clone boots here.
    wanted = CloneCreate(name=plan.name, template=template.ref, count=plan.clones, client=chosen, learn=False)
    clones = client.make_clones(wanted)
    try:
        prefetch = prepare(client, template.ref, plan.begin, tell, emptied=drop_page_cache)
        with all_reachable(clones, plan.access, host, runner) as targets, recording(client, LONGEST, recorded.append):
            before = client.counters()
            tell(f"replaying {len(reads)} reads by {len(clones)} clone(s)")
            whole = sum(read.length for read in reads) * len(targets)
            words = f"replaying {plan.trace}"
            bar.begin(words, whole)
            done = replay([target.uri for target in targets], reads, lambda count: bar.tell(words, count, whole))
            after = client.counters()
    finally:
        for clone in clones:
            with suppress(NotFound):
                client.remove_clone(clone.name, force=True)
    notes += [each.disks_missing for each in recorded if each.disks_missing]
    backend = delta(before.backend, after.backend, "the backend array").read_bytes
    if plan.begin is Begin.COLD:
        asked = min(done.bytes, delta(before.cached, after.cached, "bcache's device").read_bytes) // len(clones)
        check_cold("the replay", asked=asked, backend=backend, known=pages_read(reads, template.size))
    return ReplayResult(
        template=template.ref,
        begin=plan.begin,
        names=tuple(clone.name for clone in clones),
        seconds=done.seconds,
        trace=plan.trace,
        trace_sha256=_digest(reads),
        requests=done.requests,
        read_bytes=done.bytes,
        backend_bytes=backend,
        cache_added_bytes=after.cache.write_bytes - before.cache.write_bytes if after.cache and before.cache else 0,
        prefetch=prefetch,
        boot_set=boot_set(client, template.ref),
        facts=about,
        notes=tuple(notes),
        latencies=latencies([(plan.begin, each) for each in recorded]),
    )


def _digest(reads: Sequence[Read]) -> str:
    """Of what is read, and not when: a replay does not wait between two reads."""
    text = format_trace(Read(read.offset, read.length) for read in reads)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
