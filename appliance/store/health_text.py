"""How the store is, for people."""

from appliance.store.health import StoreHealth


def as_text(health: StoreHealth) -> str:
    """The health for people."""
    lines = []
    for title, array in (("backend", health.backend), ("mirror", health.meta)):
        if array is None:
            lines.append(f"{title:8} not running")
            continue
        sync = f", {array.sync_action} {array.sync_percent or 0:g} %" if array.sync_percent is not None else ""
        lines.append(f"{title:8} {array.health}: {array.level} of {len(array.members)}, {array.state}{sync}")
    if health.cache is not None:
        state = "attached" if health.cache.attached else "not attached"
        lines.append(f"{'cache':8} {health.cache.health}: {state}, {health.cache.mode}")
    for title, pool in (("pool", health.pool), ("fast", health.fast)):
        if pool is not None:
            percent = 100 * pool.data_used / pool.data_total if pool.data_total else 0
            size = f"{percent:.1f} % of {pool.data_total >> 20} MiB used"
            lines.append(f"{title:8} {pool.health}: {pool.mode}, {size}")
    lines += [f"! {problem.what}" + (f" ({problem.hint})" if problem.hint else "") for problem in health.problems]
    return "\n".join(lines)
