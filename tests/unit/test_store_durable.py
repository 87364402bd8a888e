"""Plans for the state file system and the durable pool."""

from dataclasses import replace

import pytest

from appliance.errors import NotReady, Refused, Unhealthy
from appliance.model import GIB
from appliance.store import durable, names
from appliance.store.durable import Durable
from appliance.store.mirror import Making
from tests.unit.plans import verbs

DOWN = Durable(names.STATE_LABEL, "", False, False, False, False, False)


def test_the_state_file_system() -> None:
    assert verbs(durable.plan_state(DOWN, Making.FORBIDDEN, "/d", "/t")) == ["MountState"]
    assert durable.plan_state(replace(DOWN, mounted=True), Making.FORBIDDEN, "/d", "/t") == ()
    blank = replace(DOWN, label="")
    assert verbs(durable.plan_state(blank, Making.ALLOWED, "/d", "/t")) == ["MakeState", "MountState"]
    with pytest.raises(NotReady):
        durable.plan_state(blank, Making.FORBIDDEN, "/d", "/t")
    with pytest.raises(Refused, match="xfs"):
        durable.plan_state(replace(blank, foreign="xfs"), Making.ALLOWED, "/d", "/t")


def test_the_pool_is_checked_only_after_a_stop_that_was_not_clean() -> None:
    up = replace(DOWN, mounted=True)
    assert verbs(durable.plan_pool(up, "/m", "/t")) == ["CheckMetadata", "ActivateData", "ActivatePool"]
    assert verbs(durable.plan_pool(replace(up, clean=True), "/m", "/t")) == ["ActivateData", "ActivatePool"]
    assert verbs(durable.plan_pool(replace(up, blank_metadata=True), "/m", "/t")) == ["ActivateData", "ActivatePool"]
    assert verbs(durable.plan_pool(replace(up, clean=True, data=True), "/m", "/t")) == ["ActivatePool"]
    assert durable.plan_pool(replace(up, data=True, pool=True), "/m", "/t") == ()


def test_a_pool_grows_by_what_its_backend_gained() -> None:
    running = replace(DOWN, mounted=True, data=True, pool=True, gained=GIB)
    assert durable.plan_pool(running, "/m", "/t") == (durable.GrowPool(GIB),)


def test_metadata_that_was_used_and_is_blank_is_damage() -> None:
    gone = replace(DOWN, mounted=True, blank_metadata=True, used=True)
    for found in (gone, replace(gone, clean=True)):
        with pytest.raises(Unhealthy, match=r"gone.*hatchery-store repair"):
            durable.plan_pool(found, "/m", "/t")
