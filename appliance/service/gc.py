"""Which volumes there are and what each is for, so that what nobody needs can be given back. Pure.

    serving    known, and its device is there for somebody: an attached clone, a sealed template
    held       known, and at rest; or being made at this moment
    pending    condemned by the catalog: it is being deleted
    orphaned   a pool has it, or a device stands for it, and the catalog does not know it
    missing    the catalog knows it, and no pool has it
    free       neither knows the id

Pending and orphaned volumes are reclaimed, no others. A lease that has ended makes a clone pending first.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from appliance.model import PoolName
from appliance.reconcile.volumes import Birth, Devices, Found, Volume, Wanted


class State(StrEnum):
    """What a volume is for."""

    SERVING = "serving"
    HELD = "held"
    PENDING = "pending"
    ORPHANED = "orphaned"
    MISSING = "missing"
    FREE = "free"


RECLAIMED = frozenset({State.PENDING, State.ORPHANED})
"""What the collector deletes."""


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes that a volume maps, and those of them that no other volume maps."""

    mapped: int
    exclusive: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A volume. ``why`` says whose it is, or why it goes; ``use`` is None where nobody looked.

    ``ending`` marks a volume that becomes pending at the next collection, because a lease has ended.
    """

    thin_id: int
    pool: PoolName
    state: State
    why: str
    use: Use | None = None
    ending: bool = False

    @property
    def reclaimed(self) -> bool:
        """Whether a collection gives it back."""
        return self.ending or self.state in RECLAIMED


def inventory(
    wanted: Wanted,
    found: Found,
    uses: Mapping[PoolName, Mapping[int, Use]] | None = None,
    ending: Collection[int] = (),
) -> tuple[Entry, ...]:
    """All volumes that the catalog, a pool or a device knows, by pool and id. Free ids are left out."""
    entries = [*_known(wanted, found, ending), *_doomed(wanted, found), *_orphans(wanted, found)]
    looked = uses or {}
    with_use = (
        Entry(e.thin_id, e.pool, e.state, e.why, looked.get(e.pool, {}).get(e.thin_id), e.ending) for e in entries
    )
    return tuple(sorted(with_use, key=lambda entry: (entry.pool, entry.thin_id)))


def state_of(thin_id: int, entries: Collection[Entry]) -> State:
    """The state of any id."""
    return next((entry.state for entry in entries if entry.thin_id == thin_id), State.FREE)


def _known(wanted: Wanted, found: Found, ending: Collection[int]) -> Iterator[Entry]:
    for volume in wanted.volumes:
        yield Entry(volume.thin_id, volume.pool, _state(volume, found), volume.owner, ending=volume.thin_id in ending)


def _state(volume: Volume, found: Found) -> State:
    pool = found.pools.get(volume.pool)
    if volume.birth is not Birth.NEVER:
        return State.HELD
    if pool is not None and volume.thin_id not in pool.thin_ids:
        return State.MISSING
    device = found.devices.get(volume.thin_id)
    return State.SERVING if device is not None and volume.devices is not Devices.NONE else State.HELD


def _doomed(wanted: Wanted, found: Found) -> Iterator[Entry]:
    del found
    for doomed in wanted.doomed:
        yield Entry(doomed.thin_id, doomed.pool, State.PENDING, doomed.why)


def _orphans(wanted: Wanted, found: Found) -> Iterator[Entry]:
    known = {volume.thin_id for volume in wanted.volumes} | {doomed.thin_id for doomed in wanted.doomed}
    seen: set[int] = set()
    for name, pool in found.pools.items():
        for thin_id in pool.thin_ids - known:
            seen.add(thin_id)
            yield Entry(thin_id, name, State.ORPHANED, "the catalog does not know it")
    for thin_id, where in _devices(found).items():
        if thin_id not in known | seen:
            yield Entry(thin_id, where, State.ORPHANED, "a device without a volume")


def _devices(found: Found) -> dict[int, PoolName]:
    # Ids are of one sequence for both pools, so a device's pool matters only to those who take it away.
    return dict.fromkeys(found.devices, PoolName.DURABLE)
