"""What the catalog says that there should be, and what the kernel has: the two sides of ``reconcile.volumes``."""

from collections.abc import Collection, Iterable, Mapping

from appliance.catalog import Catalog, Clone, Garbage, Staging, Template
from appliance.model import CloneKind, CloneState, PoolName, TemplateState
from appliance.reconcile.volumes import (
    Birth,
    Devices,
    Doomed,
    Found,
    FoundDevice,
    FoundPool,
    Origin,
    Volume,
    Wanted,
)
from appliance.service.ports import Pools


def of_template(template: Template) -> Volume:
    """A template's volume: sealed, being fetched, or left to its import."""
    return Volume(
        template.thin_id,
        PoolName.DURABLE,
        f"template {template.ref}",
        template.size,
        Devices.FETCHING if template.state is TemplateState.FETCHING else Devices.SEALED,
        Birth.NEVER if template.state.usable else Birth.UNDER_WAY,
    )


def origin_of(template: Template) -> Origin:
    """A template as its clones' devices show it."""
    return Origin(template.thin_id, template.size, whole=template.state is not TemplateState.FETCHING)


def of_staging(staging: Staging, template: Template, size: int = 0) -> Volume:
    """The volume that holds the image of a template while it is imported, ``size`` bytes large if that matters."""
    return Volume(
        staging.thin_id, PoolName.DURABLE, f"the import of {template.ref}", size, Devices.STAGING, Birth.UNDER_WAY
    )


def of_clone(clone: Clone, template: Template) -> Volume:
    """A clone's volume: with devices while it is attached; made of its template when it is new."""
    fresh = clone.state is CloneState.CREATING
    durable = clone.kind is CloneKind.DURABLE
    # An ephemeral clone shows its template through its device, so its volume begins empty; so does an overlay.
    birth = (Birth.SNAPSHOT if durable and not clone.overlay else Birth.EMPTY) if fresh else Birth.NEVER
    return Volume(
        clone.thin_id,
        clone.pool,
        f"clone {clone.name}",
        clone.size,
        Devices.NONE if clone.client is None else Devices.EXPORTED,
        birth,
        origin_of(template),
        clone.overlay,
    )


def doomed(garbage: Iterable[Garbage]) -> tuple[Doomed, ...]:
    """Volumes that are to be deleted."""
    return tuple(Doomed(each.thin_id, each.pool, each.why) for each in garbage)


def of_still(garbage: Garbage) -> Volume:
    """A volume that goes when it was copied out."""
    return Volume(garbage.thin_id, garbage.pool, garbage.why, 0, Devices.NONE, Birth.UNDER_WAY)


def everything(catalog: Catalog, stills: Collection[int] = ()) -> Wanted:
    """All volumes that the catalog knows. Of its garbage, ``stills`` are let alone."""
    templates = {template.thin_id: template for template in catalog.templates()}
    volumes = [of_template(template) for template in templates.values()]
    volumes += [of_staging(staging, templates[staging.template]) for staging in catalog.stagings()]
    volumes += [of_clone(clone, templates[clone.template]) for clone in catalog.clones()]
    garbage = catalog.garbage()
    volumes += [of_still(each) for each in garbage if each.thin_id in stills]
    return Wanted(
        volumes=tuple(sorted(volumes, key=lambda volume: volume.thin_id)),
        doomed=doomed(each for each in garbage if each.thin_id not in stills),
        transactions=transactions(catalog),
    )


def transactions(catalog: Catalog) -> Mapping[PoolName, int | None]:
    """The transaction ids that were agreed on last."""
    return {name: catalog.transaction_id(name) for name in PoolName}


def observe(pools: Pools) -> Found:
    """What the kernel has. Slow: it lists all volumes. Raises CannotTell, NotReady."""
    found: dict[PoolName, FoundPool] = {}
    devices: dict[int, FoundDevice] = {}
    for name, pool in pools.items():
        found[name] = FoundPool(pool.status().transaction_id, pool.thin_ids())
        devices |= pool.devices()
    return Found(found, devices)


def presumed(wanted: Wanted, pools: Pools, devices: Mapping[int, FoundDevice]) -> Found:
    """What an operation goes by instead of looking: fresh ids are in no pool, all others that are concerned are there.

    A transaction id that is not the pool's is found by the compare and swap.
    """
    there = [(volume.pool, volume.thin_id) for volume in wanted.volumes if volume.birth is Birth.NEVER]
    there += [(each.pool, each.thin_id) for each in wanted.doomed]
    known: dict[PoolName, FoundPool] = {}
    for name, pool in pools.items():
        agreed = wanted.transactions.get(name)
        thin_ids = frozenset(thin_id for where, thin_id in there if where is name)
        known[name] = FoundPool(pool.status().transaction_id if agreed is None else agreed, thin_ids)
    return Found(known, devices)
