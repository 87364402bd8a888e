"""``hatchery-store up`` and ``down``: the whole stack, in order. Both may be repeated, and go on where they stopped."""

import logging
from collections.abc import Callable

from appliance.errors import HatcheryError
from appliance.host import bcache, block, kernel, md, mount
from appliance.model import KIB
from appliance.reconcile import Description, apply
from appliance.store import backend, cache, durable, fast, mirror, names, nvme
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making

log = logging.getLogger(__name__)


def up(machine: Machine) -> tuple[Description, ...]:
    """Bring the store up; what is up already is left as it is, but its settings are set right.

    A missing disk or NVMe drive is not an error as long as the data can be served. Raises Refused, NotReady,
    Unhealthy, CommandFailed.
    """
    store = machine.config.require_store()
    done = [*raise_backend(machine), *raise_stack(machine, Making.FORBIDDEN)]
    durable.verify(machine, store)
    done += _try(lambda: raise_fast(machine, Making.FORBIDDEN))
    return tuple(done)


def raise_backend(machine: Machine) -> tuple[Description, ...]:
    """The kernel's modules and the backend, with the disks that there are. Raises as ``up``."""
    wanted = machine.config.require_backend()
    nvme.single(machine.config.require_nvme())
    kernel.require()
    kernel.load_modules(machine.runner)
    done: list[Description] = []
    members, array = backend.observe_start(wanted)
    done += apply(backend.plan_start(wanted, members, array), machine)
    # A member that the kernel left out as too old is seen only once the array runs.
    members, array = backend.observe_start(wanted)
    done += _try(lambda: apply(backend.plan_start(wanted, members, array), machine))
    return tuple(done)


def raise_stack(machine: Machine, making: Making) -> tuple[Description, ...]:
    """Everything above the backend: mirror, cache, state, pool."""
    done = raise_state(machine, making)
    metadata = str(mirror.part(machine, names.PART_POOL_META).path)
    target = str(machine.config.paths.state)
    return (*done, *apply(durable.plan_pool(durable.observe(machine), metadata, target), machine))


def raise_state(machine: Machine, making: Making) -> tuple[Description, ...]:
    """Mirror, cache and the state file system: all that a repair of the pool's metadata needs."""
    store = machine.config.require_store()
    done: list[Description] = []
    done += apply(mirror.plan(mirror.observe(machine), making, store.state_bytes), machine)
    done += apply(mirror.plan(mirror.observe(machine), making, store.state_bytes), machine)
    done += apply(cache.plan(cache.observe(machine, store.cache_mode), making, store.cache_mode), machine)
    state = str(mirror.part(machine, names.PART_STATE).path)
    target = str(machine.config.paths.state)
    done += apply(durable.plan_state(durable.observe(machine), making, state, target), machine)
    return tuple(done)


def raise_fast(machine: Machine, making: Making) -> tuple[Description, ...]:
    """The fast pool; nothing when its drive is missing. Raises Refused, NotReady, Unhealthy."""
    return apply(plan_fast(machine, making), machine)


def plan_fast(machine: Machine, making: Making) -> StoreSteps:
    """The steps of ``raise_fast``."""
    return fast.plan(fast.observe(machine), making, machine.config.require_store().block_kib * KIB)


def recreate_fast(machine: Machine) -> tuple[Description, ...]:
    """Make the fast pool anew, whatever was in it: an operator's word. Raises NotReady, InUse, Unhealthy."""
    size = machine.config.require_store().block_kib * KIB
    for entry in machine.dm.list():
        found = names.parse_layer(entry.name)
        if found is not None and found[0] is names.Layer.EPHEMERAL:
            machine.dm.remove(entry.name)
    return apply(fast.plan_anew(fast.observe(machine), size), machine)


def _try(work: Callable[[], tuple[Description, ...]]) -> tuple[Description, ...]:
    """Something that makes the store better, but without which it runs."""
    try:
        return work()
    except HatcheryError as error:
        log.warning("%s", error)
        return ()


def down(machine: Machine) -> tuple[HatcheryError, ...]:
    """Take the store down in order, each part within its deadline; returns what could not be stopped."""
    failed: list[HatcheryError] = []

    def attempt(work: Callable[[], object]) -> bool:
        try:
            work()
        except HatcheryError as error:
            log.warning("%s", error)
            failed.append(error)
            return False
        return True

    attempt(lambda: durable.quiet(machine))
    if attempt(lambda: _volumes_down(machine)):
        attempt(lambda: fast.down(machine))
        # Without a pool nothing is said: one that was not activated because of damage must be checked again.
        sound = machine.dm.find(durable.POOL) is not None and durable.sound(machine)
        if attempt(lambda: _pool_down(machine)) and sound:
            attempt(lambda: _mark_clean(machine))
    attempt(lambda: _state_down(machine))
    attempt(lambda: _cache_down(machine))
    attempt(lambda: _arrays_down(machine))
    return tuple(failed)


def _volumes_down(machine: Machine) -> None:
    failed: list[HatcheryError] = []
    order = list(names.Layer)
    found = [(names.parse_layer(entry.name), entry.name) for entry in machine.dm.list()]
    volumes = sorted(((kind[0], name) for kind, name in found if kind), key=lambda pair: order.index(pair[0]))
    for _, name in volumes:
        try:
            machine.dm.remove(name, deadline=3.0)
        except HatcheryError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _pool_down(machine: Machine) -> None:
    machine.dm.remove(durable.POOL, deadline=20.0)
    machine.dm.remove(durable.DATA, deadline=5.0)


def _mark_clean(machine: Machine) -> None:
    target = machine.config.paths.state
    if mount.mounted_at(target) is not None:
        durable.mark_clean(target)


def _state_down(machine: Machine) -> None:
    target = machine.config.paths.state
    if mount.mounted_at(target) is not None:
        mount.unmount(machine.runner, target, deadline=20.0)


def _cache_down(machine: Machine) -> None:
    config = machine.config
    fast = nvme.part(config.nvme, names.PART_CACHE) if config.nvme is not None else None
    array = _backend(machine)
    for device in block.partitions(array.device) if array is not None else ():
        bcache.stop(device)
    set_uuid = bcache.cache_set(fast) if fast is not None else None
    if set_uuid is not None:
        bcache.stop_set(set_uuid)


def _arrays_down(machine: Machine) -> None:
    array = _backend(machine)
    if array is None:
        return
    for device in block.partitions(array.device):
        above = md.with_member(device)
        if above is not None:
            md.stop(machine.runner, above)
    md.stop(machine.runner, array)


def _backend(machine: Machine) -> md.Array | None:
    for path in machine.config.backend.disks if machine.config.backend is not None else ():
        device = block.find(path)
        array = md.with_member(device) if device is not None else None
        if array is not None:
            return array
    return None
