"""What clones read while they boot is learned as they boot, and fetched into a cold cache before the next one does.

Runs after test_life.py, whose first tests need an appliance that was not deployed yet.
"""

import pytest

from appliance.client import Client
from appliance.schema import BootSetSummary, CloneCreate
from appliance.wait import until
from tests.appliance.site import CLIENT, TEMPLATE, Play, Site

MIB = 1 << 20


def boot(site: Site, api: Client, name: str) -> tuple[int, int]:
    """A new clone boots to its login prompt and goes; bytes that it read, and that the backend was read for."""
    api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=CLIENT))
    try:
        before = api.counters()
        with site.guest(name):
            after = api.counters()
    finally:
        api.remove_clone(name, force=True)
    read = after.clones[name].read_bytes - before.clones[name].read_bytes
    return read, after.backend.read_bytes - before.backend.read_bytes


def learned(site: Site, api: Client) -> BootSetSummary:
    """The template's boot set, made of the boots that there were, or of one that is made for it."""
    if api.template(TEMPLATE).boot_set is None:
        boot(site, api, "first")
    found = until(lambda: api.template(TEMPLATE).boot_set, "a boot set", deadline=60, interval=1)

    def at_rest() -> bool:
        prefetch = api.template(TEMPLATE).prefetch
        return prefetch is None or prefetch.state not in ("waiting", "running")

    until(at_rest, "what was learned to be fetched", deadline=300, interval=1)
    return found


@pytest.mark.heavy
def test_boots_teach_a_boot_set_and_a_prefetched_clone_needs_no_disk(site: Site, deployed: Play) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)
    with site.api() as api:
        found = learned(site, api)
        assert found.runs >= 1
        assert not found.guessed
        size = api.template(TEMPLATE).size
        assert 20 * MIB < found.total_bytes < size // 2
        assert "█" in api.boot_set(TEMPLATE).picture

        api.finish(api.cold(), deadline=900)
        api.finish(api.warm(TEMPLATE), deadline=900)
        fetched = api.template(TEMPLATE).prefetch
        assert fetched is not None
        assert fetched.state == "warm"
        assert fetched.backend_bytes > fetched.total_bytes // 2, "the cache was not cold"

        asked = api.learn(TEMPLATE, 1)
        wanted, missed = boot(site, api, "prefetched")
        assert api.finish(asked, deadline=60).phase == "1 boot(s) recorded"
        assert api.template(TEMPLATE).learning is None or found.runs < 3
    assert wanted > 20 * MIB
    assert missed <= wanted / 100, f"{missed} of {wanted} bytes came from the backend after a prefetch of {fetched}"
