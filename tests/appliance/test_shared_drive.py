"""The system lies on the NVMe drive, and the cache has what it leaves of it."""

import json

import pytest

from appliance.model import GIB, MIB
from bench.drives import Bus, Drive
from tests.appliance.conftest import BOOT_DEADLINE, booted
from tests.appliance.kept import deploy, fill, kept
from tests.appliance.site import DISKS, Site
from tests.appliance.stack import NVME_LABELS, at_rest, cache_is
from tests.appliance.test_reset import factory_reset, renew

SHARED = Drive("SHARED0", Bus.NVME, 14 * GIB)
"""Both slots, a root of 8 GiB, which is the most that it takes, and 3 GiB for the store."""

Part = tuple[str, int, int]
"""A partition: its label, where it begins, and its size, in bytes."""

SPARE = 16 * MIB
"""Bytes that may lie between partitions, which begin at whole MiBs."""


@pytest.mark.heavy
def test_the_system_and_the_cache_share_the_nvme_drive() -> None:
    with booted((SHARED, *DISKS), system_on=SHARED) as site:
        deploy(site, SHARED)
        fill(site)
        assert cache_is(at_rest(site), "writethrough")
        parts, unused = laid_out(site)
        assert {"root", *NVME_LABELS} <= {label for label, _, _ in parts}
        assert unused < SPARE
        site.vm.reboot(deadline=BOOT_DEADLINE)
        kept(site)
        assert laid_out(site) == (parts, unused)
        at_rest(site)
        renew(site, factory_reset)
        deploy(site, SHARED)
        kept(site)
        assert laid_out(site) == (parts, unused)


def laid_out(site: Site) -> tuple[list[Part], int]:
    """The partitions of the system's disk in their order on it, and how many bytes of it belong to none."""
    table = json.loads(site.vm.ssh(["sfdisk", "--json", site.vm.system_by_id]).stdout)["partitiontable"]
    sector = int(table["sectorsize"])
    found = [(part.get("name", ""), part["start"] * sector, part["size"] * sector) for part in table["partitions"]]
    usable = (table["lastlba"] + 1 - table["firstlba"]) * sector
    return sorted(found, key=lambda part: part[1]), usable - sum(size for _, _, size in found)
