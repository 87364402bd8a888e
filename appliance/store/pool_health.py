"""How the pools are. Sizes in bytes."""

from dataclasses import dataclass

from appliance.errors import HatcheryError
from appliance.host import block
from appliance.model import KIB, Health, Problem
from appliance.store import capacity, durable, fast, names
from appliance.store.machine import Machine
from appliance.store.mirror import Making
from appliance.store.names import PoolName
from appliance.store.pool import Pool, PoolMode

_FULL_SOON = 75
_NEARLY_FULL = 85
_TITLES = {PoolName.DURABLE: "the pool", PoolName.FAST: "the fast pool"}
_HINTS = {
    PoolMode.OUT_OF_DATA_SPACE: (
        "is full: writes fail",
        "free space or add a disk, and the guests go on",
    ),
    PoolMode.READ_ONLY: ("has become read-only", "remove clones, then see `hatchery-store status`"),
}


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """One of the pools; ``name`` is ``durable`` or ``fast``. ``reserve_bytes`` are held back and not in its total."""

    health: Health
    name: str
    mode: str
    data_used: int
    data_total: int
    metadata_used: int
    metadata_total: int
    block_bytes: int
    transaction_id: int
    reserve_bytes: int = 0


def pool_health(machine: Machine, kind: PoolName, problems: list[Problem]) -> PoolHealth:
    """How a running pool is; what an operator should know is added to ``problems``. Raises NotReady, CannotTell."""
    status = Pool.open(machine.dm, kind, machine.runner).status()
    title = _TITLES[kind]
    data = block.get(machine.dm.path(names.pool_data(kind)))
    reserve = capacity.held_back(data.size, status.block_bytes, status.data_total)
    worst = Health.OK

    def report(severity: Health, what: str, hint: str, rule: int | None = None) -> None:
        nonlocal worst
        problems.append(Problem(severity, what, hint, rule))
        order = list(Health)
        worst = max(worst, severity, key=order.index)

    if status.mode is not PoolMode.READ_WRITE:
        said, hint = _HINTS.get(status.mode, ("has failed", "see `hatchery-store status`"))
        if status.mode is PoolMode.OUT_OF_DATA_SPACE and reserve:
            hint = f"run `hatchery store reserve release`, or {hint}"
        report(Health.FAILED, f"{title} {said}", hint, 4)
    if status.needs_check:
        report(Health.FAILED, f"{title}'s metadata needs a check", "stop the store and run `hatchery-store repair`")
    wanted = machine.config.require_store().block_kib * KIB if kind is PoolName.DURABLE else status.block_bytes
    for broken in durable.broken_rules(machine.dm.table(names.pool(kind)), wanted):
        report(Health.FAILED, f"{title} breaks a rule: {broken}", "stop and start the store", durable.RULES.get(broken))
    for part, used, total in (
        ("data", status.data_used, status.data_total),
        ("metadata", status.metadata_used, status.metadata_total),
    ):
        percent = 100 * used // total if total else 0
        if percent >= _FULL_SOON:
            severity = Health.FAILED if percent >= _NEARLY_FULL else Health.DEGRADED
            report(severity, f"{title}'s {part} is {percent} % full", "remove clones or templates", 4)
    return PoolHealth(
        health=worst,
        name=kind,
        mode=status.mode,
        data_used=status.data_used,
        data_total=status.data_total,
        metadata_used=status.metadata_used,
        metadata_total=status.metadata_total,
        block_bytes=status.block_bytes,
        transaction_id=status.transaction_id,
        reserve_bytes=reserve,
    )


def fast_health(machine: Machine, problems: list[Problem]) -> PoolHealth | None:
    """How the fast pool is; None when it is not running. Raises CannotTell."""
    mode = fast.mode(machine)
    if mode is PoolMode.FAILED:
        hint = "detach the ephemeral clones; when the NVMe drive is back or replaced, run `hatchery-store up`"
        problems.append(Problem(Health.FAILED, "the fast pool has failed, and its ephemeral clones with it", hint, 15))
        return PoolHealth(Health.FAILED, PoolName.FAST, mode, 0, 0, 0, 0, 0, 0)
    if mode is not None:
        return pool_health(machine, PoolName.FAST, problems)
    try:
        steps = fast.plan(fast.observe(machine), Making.ALLOWED, machine.config.require_store().block_kib * KIB)
    except HatcheryError as error:
        problems.append(Problem(Health.DEGRADED, f"{error.what}: {error.why}", error.hint))
        return None
    if steps:
        hint = "run `hatchery-store up`, which says why; run the role clone_store if there is none yet"
        problems.append(Problem(Health.DEGRADED, "the fast pool is not running: no ephemeral clones", hint))
    return None
