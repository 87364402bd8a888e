"""Catalog and pools are brought to agree (rule 9): when the service starts, and when an operator asks.

At a start everything that was begun and not finished is given up: its volumes become garbage. Then what the catalog
says is compared with what the kernel has, whatever the transaction ids say, and a plan makes the kernel match. A volume
that the catalog does not know is reported and left alone, for it may be somebody's data under an old catalog.
"""

import logging
from collections.abc import Collection, Iterable

from appliance.catalog import Client
from appliance.errors import HatcheryError
from appliance.model import Health, PoolName, Problem
from appliance.reconcile import Failure, apply_each
from appliance.reconcile.volumes import Advance, Delete, Disagreement, Found, Plan, Volume, Wanted, plan
from appliance.schema import LOCAL_CLIENT
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.wanted import everything, observe

log = logging.getLogger(__name__)

PART = "volumes"
"""What all problems here are about."""


def start(core: Core) -> tuple[Plan, tuple[Problem, ...]]:
    """Settle what a former process left open, and reconcile. Returns the plan and what an operator should know."""
    with core.lock:
        if core.catalog.find_client(LOCAL_CLIENT) is None:
            core.catalog.put_client(Client(LOCAL_CLIENT, "unix"))
        given_up = core.catalog.roll_back(core.now())
        for clone in given_up.clones:
            log.warning("clone %s was not finished when the service ended: giving it up", clone.name)
        for template in given_up.templates:
            log.warning("the import of %s was not finished when the service ended: giving it up", template.ref)
        return reconcile(core)


def look(core: Core) -> Plan:
    """What ``reconcile`` would do now. Raises CannotTell, NotReady."""
    with core.lock:
        return plan(everything(core.catalog, core.stills), observe(core.pools))


def reconcile(core: Core) -> tuple[Plan, tuple[Problem, ...]]:
    """Make the kernel match the catalog. What fails is returned as a problem, it does not stop the rest."""
    with core.lock:
        _adopt_drives(core)
        wanted, found = everything(core.catalog, core.stills), observe(core.pools)
        made = plan(wanted, found)
        for name, pool in found.pools.items():
            core.catalog.set_transaction_id(pool.transaction_id, name)
            if pool.thin_ids:
                core.catalog.skip_thin_ids(max(pool.thin_ids))
        # What is large is left to the collector: a start must not wait for it.
        left = {step.doomed.thin_id for step in made.steps if isinstance(step, Delete) and _large(core, step)}
        steps = [step for step in made.steps if not (isinstance(step, Delete) and step.doomed.thin_id in left)]
        failures = apply_each(steps, core)
        _settle(core, wanted, found, made, failures, left)
        core.lost = frozenset(volume.thin_id for volume in made.missing if volume.pool is PoolName.FAST)
        found_problems = problems(made)
        for problem in found_problems:
            log.error("%s", problem.what)
        failed = [
            Problem(Health.FAILED, f"{each.description}: {each.error}", each.error.hint, 9, PART) for each in failures
        ]
        return made, (*failed, *found_problems)


def problems(made: Plan) -> tuple[Problem, ...]:
    """What a plan found and cannot put right."""
    lost = [volume for volume in made.missing if volume.pool is PoolName.FAST]
    return (
        *(_disagreement(each) for each in made.disagreements),
        *(
            Problem(
                Health.DEGRADED,
                f"volume {each.thin_id} in the {each.pool} pool is unknown to the catalog",
                "see `hatchery gc --dry-run`",
                9,
                PART,
            )
            for each in made.orphans
        ),
        *(
            Problem(
                Health.FAILED,
                f"the volume of {volume.owner} is missing in the {volume.pool} pool",
                "restore it from a backup",
                9,
                PART,
            )
            for volume in made.missing
            if volume not in lost
        ),
        *_lost(lost),
    )


def export_all(core: Core, exports: Exports) -> None:
    """Make every client's daemon serve its clones. A failure is logged: each status looks at the daemons anew."""
    with core.lock:
        for client in core.catalog.clients():
            try:
                # An address may come up late.
                exports.serve(client)
            except HatcheryError:
                log.exception("client %s is not served", client.name)
        try:
            exports.nvme.sync()
        except HatcheryError:
            log.exception("clones are not offered over NVMe/TCP")


def _adopt_drives(core: Core) -> None:
    """Take over a pool that is on other drives than the one that the catalog knows: it begins anew."""
    for name, pool in core.pools.items():
        identity, known = pool.identity(), core.catalog.pool(name)
        if known.identity != identity:
            if known.identity is not None:
                log.warning("the %s pool is on other drives than before: what was on the old ones is lost", name)
                core.catalog.adopt_pool(name, pool.status().transaction_id, identity)
            else:
                core.catalog.adopt_pool(name, known.transaction_id, identity)


def _large(core: Core, step: Delete) -> bool:
    try:
        return core.large(step.doomed.thin_id, step.doomed.pool)
    except HatcheryError:
        # Whatever that is, deleting will tell.
        return False


def _settle(
    core: Core, wanted: Wanted, found: Found, made: Plan, failures: Iterable[Failure], left: Collection[int]
) -> None:
    """Forget the volumes that are gone, with the transaction ids that the pools have now; some were ``left``."""
    kept = {each.step.doomed.thin_id for each in failures if isinstance(each.step, Delete)} | set(left)
    stuck = {each.step.pool for each in failures if isinstance(each.step, Advance)}
    for name in found.pools:
        gone = [each.thin_id for each in wanted.doomed if each.pool is name and each.thin_id not in kept]
        reached = None if name in stuck else made.advances.get(name)
        if gone or reached is not None:
            core.catalog.drop_garbage(gone, name, reached)


def _disagreement(found: Disagreement) -> Problem:
    return Problem(
        Health.FAILED,
        f"the {found.pool} pool is at transaction {found.found}, the catalog was at {found.expected}:"
        " one of them is older than the other",
        "was the state restored from a backup? compare `hatchery clone list`",
        9,
        PART,
    )


def _lost(volumes: list[Volume]) -> Iterable[Problem]:
    if volumes:
        owners = ", ".join(volume.owner for volume in volumes[:5])
        more = f" and {len(volumes) - 5} more" if len(volumes) > 5 else ""
        yield Problem(
            Health.DEGRADED,
            f"{len(volumes)} ephemeral clone(s) went with their NVMe drive: {owners}{more}",
            "reset or remove them",
            15,
            PART,
        )
