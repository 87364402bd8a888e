"""A second NVMe drive comes: the cache moves from the first drive alone to a mirror of both, while it is in use.

    mirror of the new drive's partition, the other leg missing -> a cache set on it -> backing devices change over
    -> the first drive's set ends -> its partition joins the mirror

The cache is empty afterwards. Cut off at any step, the backing devices' own superblocks say which cache is in use, and
the same command goes on.
"""

from dataclasses import dataclass
from pathlib import Path

from appliance.errors import Refused
from appliance.host import bcache, block
from appliance.model import MIB
from appliance.reconcile import Description
from appliance.store import backend, bypass, cache, cache_mirror
from appliance.store.cache import MakeCache, Register
from appliance.store.cache_mirror import CacheMirror
from appliance.store.machine import Machine, StoreSteps


@dataclass(frozen=True, slots=True)
class Move:
    """What was found: the mirror's device and its set, what else is on it, and the backing devices with theirs."""

    mirror: CacheMirror
    device: str = ""
    set_uuid: str = ""
    found_set: str = ""
    kind: str = ""
    registered: bool = False
    backings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SwitchCache:
    """Take a backing device from one cache set to another."""

    device: str
    set_uuid: str

    def describe(self) -> Description:
        """What it does."""
        return Description("move", "cache", f"of {self.device} to {self.set_uuid}; it is empty afterwards")

    def apply(self, machine: Machine) -> None:
        """Detach, which writes back what is dirty; attach; set and verify the settings at once."""
        device = block.get(self.device)
        bcache.detach(device)
        bcache.attach(device, self.set_uuid)
        bypass.forgive(machine.config.paths)
        mode = cache.mode_for(machine, machine.config.require_store().cache_mode)
        bcache.apply_settings(device, self.set_uuid, mode)


@dataclass(frozen=True, slots=True)
class RetireCache:
    """End a cache set that nobody uses any more, and clear its partition."""

    device: str

    def describe(self) -> Description:
        """What it does."""
        return Description("retire", "cache", f"on {self.device}")

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """End it; the partition then holds nothing."""
        device = block.get(self.device)
        found = bcache.cache_set(device)
        if found is not None:
            bcache.stop_set(found)
        block.zero(Path(self.device), 0, 4 * MIB)


def observe(machine: Machine) -> Move:
    """Look at the mirror and at whom the backing devices belong to. Raises NotReady."""
    found = cache_mirror.observe(machine)
    if found.array is None:
        return Move(found)
    device = found.array.device
    own = bcache.superblock(device)
    kind = "" if own else ", ".join(map(str, block.signatures(machine.runner, device)))
    backings = []
    for backing in backend.data_parts(machine.config.require_backend()):
        cached = bcache.cached(backing)
        backings.append((str(backing.path), (cached.set_uuid if cached else None) or ""))
    return Move(
        found,
        str(device.path),
        cache_mirror.set_uuid(found.array),
        own.set_uuid if own else "",
        kind,
        bcache.registered(device),
        tuple(backings),
    )


def plan(found: Move) -> StoreSteps:
    """The steps that move the cache; none when there is nothing to move. Raises Refused."""
    plain = [leg for leg in found.mirror.legs if leg.plain]
    if found.mirror.drives < 2 or not plain or not found.device:
        return ()
    if found.kind:
        raise Refused(f"{found.device} is not empty", why=f"it holds {found.kind}", hint="wipe the disk that it is on")
    steps: StoreSteps = ()
    if found.found_set != found.set_uuid:
        steps = (MakeCache(found.device, found.set_uuid),)
    if not found.registered:
        steps = (*steps, Register(found.device))
    steps += tuple(SwitchCache(device, found.set_uuid) for device, own in found.backings if own != found.set_uuid)
    return (*steps, *(RetireCache(leg.device) for leg in plain))


def expected(found: CacheMirror) -> tuple[Description, ...]:
    """For check mode, while the mirror that the cache will move to is not there."""
    plain = [leg for leg in found.legs if leg.plain]
    if found.drives < 2 or not plain or len(found.legs) < 2:
        return ()
    return (
        Description("move", "cache", f"from {plain[0].device} to the mirror; it is empty afterwards"),
        Description("rejoin", "cache mirror", plain[0].device),
    )
