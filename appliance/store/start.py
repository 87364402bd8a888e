"""``hatchery-store up`` and ``down``: the whole stack, in order. Both may be repeated, and go on where they stopped."""

import logging
from collections.abc import Callable

from appliance.config import CacheMode
from appliance.errors import HatcheryError, Unhealthy
from appliance.host import bcache, block, kernel, md, mount
from appliance.model import KIB
from appliance.reconcile import Description, apply
from appliance.store import backend, cache, cache_mirror, cache_move, durable, fast, grow, mirror, names, nvme
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
    nvme.require_count(machine.config.require_nvme())
    kernel.require()
    kernel.load_modules(machine.runner)
    done: list[Description] = []
    members, array = backend.observe_start(wanted)
    done += apply(backend.plan_start(wanted, members, array), machine)
    # A member that the kernel left out as too old is seen only once the array runs.
    members, array = backend.observe_start(wanted)
    done += _try(lambda: apply(backend.plan_start(wanted, members, array), machine))
    md.release_writes(backend.running(wanted))
    done += _try(lambda: apply(grow.plan(wanted, grow.observe(machine)), machine))
    return tuple(done)


def finish_growth(machine: Machine) -> tuple[Description, ...]:
    """What a growth of the backend still lacks, as far as it can be done now. Raises as ``up``."""
    done = apply(grow.plan(machine.config.require_backend(), grow.observe(machine)), machine)
    if machine.config.store is None or machine.dm.find(durable.POOL) is None:
        return done
    done += raise_cache(machine, Making.FORBIDDEN)
    metadata = str(mirror.part(machine, names.PART_POOL_META).path)
    target = str(machine.config.paths.state)
    return (*done, *apply(durable.plan_pool(durable.observe(machine), metadata, target), machine))


def check_growth(machine: Machine) -> tuple[Description, ...]:
    """What ``finish_growth`` would do, as far as can be told while the new partition is not there. Raises NotReady."""
    steps = grow.plan(machine.config.require_backend(), grow.observe(machine))
    found = [step.describe() for step in steps]
    if any(isinstance(step, grow.AddData) for step in steps):
        found.append(Description("create", "backing device", "on the new partition, with the cache that there is"))
        found.append(Description("grow", durable.POOL, "by the new space, but for the reserve"))
    return tuple(found)


def growth_is_due(machine: Machine) -> bool:
    """Whether the running array was rearranged and the pool has not got the new space yet. Raises NotReady."""
    wanted = machine.config.require_backend()
    array = backend.running(wanted)
    if array.reshaping or array.raid_disks != len(wanted.disks):
        return False
    return bool(grow.plan(wanted, grow.observe(machine)))


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
    found = mirror.observe(machine)
    left_out = mirror.left_out(found)
    steps = mirror.plan(found, making, store.state_bytes)
    # Legs come back last: that they were left out tells that the cache beside them may be old, and is forgotten then.
    done += apply(mirror.without_legs(steps) if left_out else steps, machine)
    if not left_out:
        done += apply(mirror.plan(mirror.observe(machine), making, store.state_bytes), machine)
    state = str(mirror.part(machine, names.PART_STATE).path)
    target = str(machine.config.paths.state)
    done += apply(durable.plan_state(durable.observe(machine), making, state, target), machine)
    if left_out:
        cache.mark_lost(machine)
        for _ in range(2):
            done += apply(mirror.plan(mirror.observe(machine), making, store.state_bytes), machine)
    done += raise_cache(machine, making)
    return tuple(done)


def raise_cache(machine: Machine, making: Making) -> tuple[Description, ...]:
    """The cache over all backing devices; the state file system is mounted, and may say which of two drives is current.

    Raises NotReady, Refused, Unhealthy.
    """
    backings = backend.data_parts(machine.config.require_backend())
    done: list[Description] = []
    if cache.marked_lost(machine) or cache_mirror.doubtful(cache_mirror.observe(machine)):
        log.warning("what the NVMe drive that is there holds may not be the current data: its cache counts as empty")
        for backing in backings:
            found = cache.without(cache.observe(machine, CacheMode.WRITETHROUGH, backing))
            done += apply(cache.plan(found, making, CacheMode.WRITETHROUGH), machine)
        done += _try(lambda: apply(cache_mirror.plan(cache_mirror.observe(machine), making), machine))
    else:
        done += apply(cache_mirror.plan(cache_mirror.observe(machine), making), machine)
    # A member that the kernel left out as too old is seen only once the mirror runs.
    done += _try(lambda: apply(cache_mirror.plan(cache_mirror.observe(machine), making), machine))
    done += _raise_cached(machine, making)
    if making is Making.ALLOWED and (moving := cache_move.plan(cache_move.observe(machine))):
        done += apply(moving, machine)
        done += apply(cache_mirror.plan(cache_mirror.observe(machine), making), machine)
        done += _raise_cached(machine, making)
    cache.unmark_lost(machine)
    return tuple(done)


def _raise_cached(machine: Machine, making: Making) -> tuple[Description, ...]:
    done: tuple[Description, ...] = ()
    mode = cache.mode_for(machine, machine.config.require_store().cache_mode)
    for backing in backend.data_parts(machine.config.require_backend()):
        done += apply(cache.plan(cache.observe(machine, mode, backing), making, mode), machine)
    return done


def check_cache(machine: Machine) -> list[Description]:
    """What ``raise_cache`` would do for setup, as far as can be told while a mirror of two drives is not there."""
    wanted = machine.config.require_store().cache_mode
    mirrored = cache_mirror.observe(machine)
    found = [step.describe() for step in cache_mirror.plan(mirrored, Making.ALLOWED)]
    found += cache_move.expected(mirrored)
    for backing in backend.data_parts(machine.config.require_backend()):
        mode = cache.mode_for(machine, wanted)
        found += [step.describe() for step in cache.plan(cache.observe(machine, mode, backing), Making.ALLOWED, mode)]
    return list(dict.fromkeys(found))


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

    attempt(lambda: _nvme_down(machine))
    attempt(lambda: durable.quiet(machine))
    if attempt(lambda: _volumes_down(machine)):
        attempt(lambda: fast.down(machine))
        # Without a pool nothing is said: one that was not activated because of damage must be checked again.
        sound = machine.dm.find(durable.POOL) is not None and durable.sound(machine)
        if attempt(lambda: _pool_down(machine)) and sound:
            attempt(lambda: _mark_clean(machine))
    # The state file system last: the cache leaves word in it.
    attempt(lambda: _cache_down(machine))
    attempt(lambda: _state_down(machine))
    attempt(lambda: _arrays_down(machine))
    return tuple(failed)


def _nvme_down(machine: Machine) -> None:
    """The kernel's NVMe target, which no unit that ends would stop, lets go of clones."""
    from appliance.host import nvmet, nvmet_request  # late, for guests wait for ``up``

    problems = nvmet_request.clear(nvmet_request.Files(machine.config.paths.nvme), nvmet.Target())
    for name, words in problems.items():
        raise Unhealthy(f"{name} is still offered over NVMe/TCP", why=words)


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
    array = _backend(machine)
    for device in block.partitions(array.device) if array is not None else ():
        bcache.stop(device)
    if config.nvme is None:
        return
    mirrored = cache_mirror.find(machine)
    places = [part.device for part in nvme.parts(config.nvme, names.PART_CACHE)]
    for place in (*places, *([mirrored.device] if mirrored is not None else [])):
        set_uuid = bcache.cache_set(place)
        if set_uuid is not None:
            bcache.stop_set(set_uuid)
    cache_mirror.stop(machine)


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
