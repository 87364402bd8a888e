"""The cache as a measurement wants it to begin: as it is, emptied, or with a template's boot set in it."""

import os
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from appliance.client import Client
from appliance.errors import DeadlineExceeded, Unhealthy
from appliance.measure import qemu
from appliance.measure.result import check_emptied
from appliance.run import Runner
from appliance.schema import CloneView, PrefetchView
from appliance.wait import until

COLD_DEADLINE = 900.0
PREFETCH_DEADLINE = 3600.0
"""Seconds for emptying the cache, and for filling it; disks may be slow, and templates without a boot set large."""

LEARN_DEADLINE = 60.0
"""Seconds for a boot that was recorded to become part of the boot set; the service takes some."""

NOT_DROPPED = "the page cache of the guests' host was not dropped: that needs root there"

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class Begin(StrEnum):
    """What the cache holds when a measurement begins."""

    AS_IT_IS = "as-it-is"
    COLD = "cold"
    PREFETCHED = "prefetched"


def prepare(
    client: Client,
    template: str,
    begin: Begin,
    tell: Callable[[str], None],
    *,
    emptied: Callable[[], object] = lambda: None,
) -> PrefetchView | None:
    """Make the cache what ``begin`` says; ``emptied`` is called when it is empty, before anything is prefetched.

    Returns what the prefetch cost, if there was one; raises as it, and CannotTell when it found its data in the cache.
    """
    if begin is Begin.AS_IT_IS:
        return None
    tell("emptying the cache")
    client.finish(client.cold(), deadline=COLD_DEADLINE)
    emptied()
    if begin is Begin.COLD:
        return None
    tell("prefetching")
    found = prefetch(client, template)
    check_emptied(template, found)
    return found


def prefetch(client: Client, template: str) -> PrefetchView:
    """Fetch the template's boot set, or all of one without, into the cache; returns what that cost.

    Raises Unhealthy when not all of it is in the cache afterwards.
    """
    client.finish(client.warm(template), deadline=PREFETCH_DEADLINE)
    found = client.template(template).prefetch
    if found is None or found.state != "warm":
        raise Unhealthy(
            f"template {template} was prefetched, but is not in the cache",
            why=f"the prefetch is {found.state}" if found is not None else "the service knows of no prefetch",
            hint="did the service restart, or does anybody else empty the cache?",
        )
    return found


def drop_page_cache() -> bool:
    """Drop the page cache of this host; False when that is not allowed: it needs root."""
    if os.geteuid() != 0:
        return False
    os.sync()
    DROP_CACHES.write_text("3\n")
    return True


def drop_host_caches(runner: Runner) -> bool:
    """As ``drop_page_cache`` where guests run; QEMU is brought back: how long it takes to load is not measured."""
    if not drop_page_cache():
        return False
    runner.run([qemu.QEMU, "--version"])
    return True


def let_learn(client: Client, clone: CloneView) -> bool:
    """Let the boot of ``clone``, whose guest has ended, be learned from, and what follows from that be fetched.

    A clone whose boot was recorded is detached, for that ends the record at once; the service would wait minutes for
    more. Returns whether there was anything to wait for.
    """
    wanted = client.template(clone.template).learning
    recorded = wanted is not None and clone.name in wanted.recording
    if wanted is not None and recorded:
        missing = wanted.missing
        client.detach(clone.name, force=True)

        def kept() -> bool:
            now = client.template(clone.template).learning
            return now is None or now.missing < missing

        with suppress(DeadlineExceeded):  # a record that lost requests is thrown away, and none is missed less
            until(kept, "the boot to be learned from", deadline=LEARN_DEADLINE, interval=0.5)

    def at_rest() -> bool:
        found = client.template(clone.template).prefetch
        return found is None or found.state not in ("waiting", "running")

    if at_rest():
        return recorded
    until(at_rest, "the prefetch that runs", deadline=PREFETCH_DEADLINE, interval=0.5)
    return True
