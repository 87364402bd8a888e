"""The collector: gives back what nobody needs, in the background and below the guests (rule 14).

It runs every minute, and when something large was removed. Small volumes go at once with the request that removes
them; the rest waits in the catalog's garbage for it. A volume is emptied a piece at a time, outside of the lock, with
pauses while guests have I/O; the lock is held for what is short: moving an id into the garbage, deleting a volume that
is empty, forgetting it.

An orphan cannot come from a crash of the service, which records what it does before it does it: it means that the
catalog is older than a pool. So the collector leaves a day between the look that finds it and its end, and does not
touch any while catalog and pool have disagreed, unless an operator says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from appliance.catalog import Garbage
from appliance.errors import HatcheryError, NotFound
from appliance.model import PoolName
from appliance.reconcile.volumes import Found
from appliance.service.core import SMALL, Core
from appliance.service.gc import Entry, State, Use, inventory
from appliance.service.ports import Pool, Tell
from appliance.service.wanted import everything, observe

log = logging.getLogger(__name__)

EVERY_SECONDS = 60.0
"""Pause between two collections."""

GRACE_SECONDS = 24 * 3600.0
"""How long an orphan is let alone, from the first look that found it."""

LOOK_SECONDS = 3600.0
"""Pause between two looks for orphans, which read the list of all volumes."""

TURN_LOOK = 0.2
"""Seconds from one look to the next at whether what waits for another collection's end is still wanted."""

QUIET = 4
"""Requests of the pool during one piece, up to which it counts as resting."""

BUSY_SHARE = 4.0
"""While guests have I/O, a piece is followed by a pause this many times as long as it took."""

_PAUSE = (0.05, 2.0)


class Asked(Enum):
    """Who wants a collection."""

    BY_ITSELF = "by itself"
    BY_OPERATOR = "by an operator"


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection came to: clones whose lease ended, volumes that are gone, and what could not go, in words."""

    leases: tuple[str, ...] = ()
    volumes: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = [f"{len(self.volumes)} volume(s) given back"]
        if self.leases:
            said.append(f"{len(self.leases)} lease(s) ended")
        if self.failures:
            said.append(f"{len(self.failures)} failed: {self.failures[0]}")
        return ", ".join(said)


class Pacer:
    """Says after each piece whether to go on, having waited while guests have I/O."""

    def __init__(self, requests: Callable[[], int], ended: threading.Event, unwanted: Callable[[], bool]) -> None:
        self._requests = requests
        self._ended = ended
        self._unwanted = unwanted
        self._before = requests()
        self._begun = time.monotonic()

    def go_on(self) -> bool:
        """Wait as long as it takes; false when the collector is to end, or this collection."""
        took, now = time.monotonic() - self._begun, self._requests()
        if now - self._before > QUIET:
            self._ended.wait(min(max(took * BUSY_SHARE, _PAUSE[0]), _PAUSE[1]))
        self._begun, self._before = time.monotonic(), self._requests()
        return not self._ended.is_set() and not self._unwanted()


class Collector:
    """One collection at a time, by its thread or for an operator. ``end_leases`` removes clones whose lease ended."""

    def __init__(self, core: Core, end_leases: Callable[[], tuple[str, ...]], doubt: Path) -> None:
        self._core = core
        self._end_leases = end_leases
        self._doubt = doubt
        self.clock = time.monotonic
        self._first_seen: dict[tuple[PoolName, int], float] = {}
        self._looked: float | None = None
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._poked = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Collect from now on."""
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """There is something to do."""
        self._poked.set()

    def close(self) -> None:
        """Stop, between two pieces if need be."""
        self._ended.set()
        self._poked.set()
        if self._thread is not None:
            self._thread.join(10)

    def doubt(self) -> None:
        """Catalog and pool have disagreed: leave orphans alone until an operator has them collected."""
        self._doubt.touch()

    def report(self) -> tuple[Entry, ...]:
        """All volumes with what each would give. Slow. Raises CannotTell, InUse, NotReady."""
        core = self._core
        found = observe(core.pools)
        uses = {name: _uses(pool) for name, pool in core.pools.items()}
        with core.lock:
            return inventory(everything(core.catalog, core.stills), found, uses, self._ending())

    def collect(
        self,
        asked: Asked,
        tell: Tell = lambda *_: None,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Collected:
        """Give back what can go now; ``tell`` hears what is done, to an operator in bytes. Raises CannotTell, NotReady.

        It ends between two pieces of a volume once it is ``unwanted``; the collector goes on there by itself.
        """
        while not self._turn.acquire(timeout=TURN_LOOK):
            if unwanted():
                return Collected()
        try:
            if unwanted():
                return Collected()
            tell("ending leases", 0, 0, "")
            leases = self._end_leases()
            with self._core.lock:
                self._core.count_leases(len(leases))
            self._condemn_orphans(asked)
            gone, failures = [], []
            garbage = [each for each in self._core.catalog.garbage() if each.thin_id not in self._core.stills]
            far = _HowFar(tell, self._sizes(garbage) if asked is Asked.BY_OPERATOR else {})
            for each in garbage:
                far.begin(each)
                try:
                    if self._reclaim(each.thin_id, each.pool, unwanted, far):
                        gone.append(each.thin_id)
                        far.left(0)
                except HatcheryError as error:
                    failures.append(f"volume {each.thin_id}: {error}")
                if self._ended.is_set() or unwanted():
                    break
            return Collected(leases, tuple(gone), tuple(failures))
        finally:
            self._turn.release()

    # --- inside

    def _run(self) -> None:
        while not self._ended.is_set():
            self._poked.wait(EVERY_SECONDS)
            self._poked.clear()
            if self._ended.is_set():
                return
            try:
                done = self.collect(Asked.BY_ITSELF)
            except HatcheryError as error:
                log.warning("nothing was collected: %s", error)
            else:
                if done != Collected():
                    log.log(logging.WARNING if done.failures else logging.INFO, "collected: %s", done)

    def _ending(self) -> frozenset[int]:
        """Volumes that go with the leases that have ended: clones, and retired templates that have no others."""
        catalog = self._core.catalog
        clones = {clone.thin_id for clone in catalog.expired_clones(self._core.now())}
        left = {clone.template for clone in catalog.clones() if clone.thin_id not in clones}
        retired = {each.thin_id for each in catalog.templates() if each.retired and each.thin_id not in left}
        return frozenset(clones | retired) if clones else frozenset()

    def _condemn_orphans(self, asked: Asked) -> None:
        now = self.clock()
        if asked is Asked.BY_ITSELF and (self._doubt.exists() or self._looked_lately(now)):
            return
        self._looked = now
        found = observe(self._core.pools)
        with self._core.lock:
            # What was made since then is known by now: an intent is recorded before anything is made.
            known = everything(self._core.catalog, self._core.stills)
            orphans = [entry for entry in inventory(known, found) if entry.state is State.ORPHANED]
            self._first_seen = {
                (entry.pool, entry.thin_id): self._first_seen.get((entry.pool, entry.thin_id), now) for entry in orphans
            }
            for entry in orphans:
                seen = now - self._first_seen[entry.pool, entry.thin_id]
                if asked is Asked.BY_OPERATOR or seen >= GRACE_SECONDS:
                    self._condemn(entry, found)
        if asked is Asked.BY_OPERATOR:
            self._doubt.unlink(missing_ok=True)

    def _looked_lately(self, now: float) -> bool:
        return self._looked is not None and now - self._looked < LOOK_SECONDS

    def _condemn(self, entry: Entry, found: Found) -> None:
        """Move an orphan into the garbage. One that a removal has taken meanwhile is in no pool any more."""
        pool = self._core.pool_of(entry.pool)
        if pool.exists(entry.thin_id):
            log.warning("volume %d in the %s pool is an orphan: it goes", entry.thin_id, entry.pool)
            self._core.catalog.adopt_orphan(entry.thin_id, entry.pool, "the catalog did not know it", self._core.now())
        elif entry.thin_id in found.devices:
            pool.deactivate(entry.thin_id)

    def _sizes(self, garbage: Sequence[Garbage]) -> dict[int, int]:
        """Bytes that volumes hold, by their ids; those of a pool that is not there are left out."""
        pools = self._core.pools
        return {each.thin_id: _held(pools[each.pool], each.thin_id) for each in garbage if each.pool in pools}

    def _reclaim(self, thin_id: int, name: PoolName, unwanted: Callable[[], bool], far: "_HowFar") -> bool:
        """Empty and delete a volume of the garbage; false when it is to go on another time."""
        core = self._core
        with core.lock:
            # It may have gone with a request meanwhile; what somebody copies out stays until that is done.
            if thin_id in core.stills or not core.catalog.find_garbage([thin_id]):
                return False
            pool = core.pool_of(name)
            pool.deactivate(thin_id)
            core.collecting.add(thin_id)
        try:
            held = _held(pool, thin_id)
            pacer = Pacer(pool.requests, self._ended, unwanted)

            def go_on() -> bool:
                if far.wanted:
                    far.left(_held(pool, thin_id))
                return pacer.go_on()

            if held > SMALL and not pool.empty(thin_id, go_on):
                return False
            with core.lock:
                core.discard([thin_id])
                core.count_given_back(1, held)
            return True
        finally:
            core.collecting.discard(thin_id)


class _HowFar:
    """How far a collection is, in bytes that volumes hold; nobody wants to know it where no ``sizes`` are."""

    def __init__(self, tell: Tell, sizes: Mapping[int, int]) -> None:
        self.wanted = bool(sizes)
        self._tell = tell
        self._sizes = sizes
        self._total = sum(sizes.values())
        self._before = self._size = 0
        self._words = ""

    def begin(self, volume: Garbage) -> None:
        """The next volume's turn."""
        self._before += self._size
        self._size = self._sizes.get(volume.thin_id, 0)
        self._words = f"emptying volume {volume.thin_id}: {volume.why}"
        self.left(self._size)

    def left(self, held: int) -> None:
        """The volume whose turn it is holds so much now."""
        self._tell(self._words, self._before + max(0, self._size - held), self._total, "")


def _held(pool: Pool, thin_id: int) -> int:
    """Bytes that a volume maps; 0 of one that was never made."""
    try:
        return pool.held_bytes(thin_id)
    except NotFound:
        return 0


def _uses(pool: Pool) -> dict[int, Use]:
    return {thin_id: Use(found.mapped, found.exclusive) for thin_id, found in pool.usage().items()}
