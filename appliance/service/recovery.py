"""What happens when the service starts: catalog and pool are brought to agree (rule 9), then clones are exported again.

An open intent is settled by looking into the pool, whatever the transaction ids say: what was being made goes, what
was being removed goes. A volume that the catalog does not know is reported and left alone, for it may be somebody's
data under an old catalog.
"""

import logging
from collections.abc import Callable
from functools import partial

from appliance.catalog import Client
from appliance.errors import HatcheryError
from appliance.model import Access, CloneState, Health, Problem, TemplateState
from appliance.schema import LOCAL_CLIENT
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)


def reconcile(core: Core) -> tuple[Problem, ...]:
    """Settle what a former process left open. Returns what an operator should know."""
    problems: list[Problem] = []
    with core.lock:
        catalog, pool = core.catalog, core.pool
        if catalog.find_client(LOCAL_CLIENT) is None:
            catalog.put_client(Client(LOCAL_CLIENT, "unix"))
        catalog.roll_back(core.now())
        garbage = catalog.garbage()
        problems += _agree(core, has_intents=bool(garbage))
        for each in garbage:
            log.warning("volume %d is deleted: %s", each.thin_id, each.why)
            problems += _try(f"volume {each.thin_id} ({each.why})", partial(core.discard, [each.thin_id]))
        problems += _compare(core)
        for template in catalog.templates():
            if template.state is TemplateState.READY:
                seal = partial(pool.activate_template, template.thin_id, template.size, Access.READ_ONLY)
                problems += _try(f"template {template.ref}", seal)
    return tuple(problems)


def _try(whose: str, step: Callable[[], object]) -> list[Problem]:
    """Do a step; a failure is logged and returned, for one thing that cannot be settled must not stop all others."""
    try:
        step()
    except HatcheryError as error:
        log.exception("%s", whose)
        return [Problem(Health.FAILED, f"{whose}: {error}", error.hint)]
    return []


def _agree(core: Core, *, has_intents: bool) -> list[Problem]:
    found = core.pool.status().transaction_id
    expected = core.catalog.transaction_id()
    core.catalog.set_transaction_id(found)
    # One ahead is a change whose result was not recorded any more: its intent is open.
    fits = expected is None or found == expected or (has_intents and found == expected + 1)
    if fits:
        return []
    what = f"the pool is at transaction {found}, the catalog was at {expected}"
    log.error("%s: one of them is older than the other", what)
    return [Problem(Health.FAILED, what, "was the state restored from a backup? compare `hatchery clone list`")]


def _compare(core: Core) -> list[Problem]:
    """Volumes that only one of the two knows."""
    problems = []
    in_pool = core.pool.thin_ids()
    if in_pool:
        core.catalog.skip_thin_ids(max(in_pool))
    for orphan in sorted(in_pool - core.catalog.thin_ids()):
        log.error("volume %d in the pool is unknown to the catalog", orphan)
        problems.append(Problem(Health.DEGRADED, f"volume {orphan} in the pool is unknown to the catalog"))
    templates = [t for t in core.catalog.templates() if t.state is TemplateState.READY]
    clones = [c for c in core.catalog.clones() if c.state is CloneState.READY]
    problems += [_missing(f"template {t.ref}", t.thin_id) for t in templates if t.thin_id not in in_pool]
    problems += [_missing(f"clone {c.name}", c.thin_id) for c in clones if c.thin_id not in in_pool]
    return problems


def _missing(whose: str, thin_id: int) -> Problem:
    log.error("volume %d of %s is missing in the pool", thin_id, whose)
    return Problem(Health.FAILED, f"the volume of {whose} is missing in the pool", "restore it from a backup")


def export_all(core: Core, exports: Exports) -> tuple[Problem, ...]:
    """Activate the attached clones and make every client's daemon serve them. A failure is reported, not raised."""
    problems: list[Problem] = []
    with core.lock:
        for client in core.catalog.clients():
            for clone in core.catalog.clones_of_client(client.name):
                activate = partial(core.pool.activate_clone, clone.thin_id, clone.size)
                problems += _try(f"clone {clone.name}", activate)
            # Whether a client is served is looked at anew for each status: an address may come up late.
            _try(f"client {client.name}", partial(exports.serve, client))
    return tuple(problems)
