"""A recorded boot replayed by fresh clones, all at once: what storage alone takes, and what it costs the backend."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from appliance.bootset.trace import Read
from appliance.client import Client
from appliance.errors import NotFound
from appliance.measure.prepare import Begin, prepare
from appliance.measure.reach import Access, all_reachable, choose_client
from appliance.measure.replay import replay
from appliance.model import MIB
from appliance.run import Runner
from appliance.schema import CloneCreate


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay, see ``session.Plan``."""

    template: str
    clones: int = 1
    begin: Begin = Begin.AS_IT_IS
    name: str = "replay"
    access: Access = field(default_factory=Access)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Seconds of each clone from the common begin; bytes and requests of all; what the backend and the cache did."""

    template: str
    begin: Begin
    seconds: tuple[float, ...]
    requests: int
    read_bytes: int
    backend_bytes: int
    cache_added_bytes: int

    @property
    def hit_rate_bytes(self) -> float:
        """Share of the bytes that did not need the backend, at least 0."""
        return max(0.0, 1 - self.backend_bytes / self.read_bytes)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "hit_rate_bytes": self.hit_rate_bytes}

    def text(self) -> str:
        """For people."""
        ordered = sorted(self.seconds)
        clones = len(ordered)
        return (
            f"{clones} clone{'s' if clones > 1 else ''} of {self.template} at once, cache {self.begin}:"
            f" {self.requests:,} requests, {self.read_bytes / MIB:.1f} MiB\n"
            f"done after: first {ordered[0]:.2f} s, median {median(ordered):.2f} s, last {ordered[-1]:.2f} s\n"
            f"from the backend {self.backend_bytes / MIB:.1f} MiB, into the cache"
            f" {self.cache_added_bytes / MIB:.1f} MiB, hits {self.hit_rate_bytes:.2%} of the bytes\n"
        )


def run(
    client: Client,
    plan: Plan,
    reads: Sequence[Read],
    *,
    host: str | None,
    runner: Runner,
    tell: Callable[[str], None],
) -> ReplayResult:
    """Replay with fresh clones, which are removed afterwards, also when it fails. Raises as ``replay`` and the API."""
    template = client.template(plan.template).ref
    prepare(client, template, plan.begin, tell)
    chosen = choose_client(client, plan.access, host, tell)
    # A trace may be of any template, and no clone boots here.
    wanted = CloneCreate(name=plan.name, template=template, count=plan.clones, client=chosen, learn=False)
    clones = client.create_clones(wanted)
    try:
        with all_reachable(clones, plan.access, host, runner) as targets:
            before = client.counters()
            tell(f"replaying {len(reads)} reads by {len(clones)} clone(s)")
            done = replay([target.uri for target in targets], reads)
            after = client.counters()
    finally:
        for clone in clones:
            with suppress(NotFound):
                client.remove_clone(clone.name, force=True)
    added = after.cache.write_bytes - before.cache.write_bytes if after.cache and before.cache else 0
    return ReplayResult(
        template=template,
        begin=plan.begin,
        seconds=done.seconds,
        requests=done.requests,
        read_bytes=done.bytes,
        backend_bytes=after.backend.read_bytes - before.backend.read_bytes,
        cache_added_bytes=added,
    )
