"""Stores of other shapes than the usual one, and what becomes of them: each on an appliance of its own.

Each is checked, applied, checked and applied again, and then looked at through the system.
"""

from typing import Any

import pytest

from appliance.model import GIB
from appliance.wait import until
from bench.drives import Bus, Drive
from tests.appliance.conftest import booted
from tests.appliance.site import BOX, Play, Playbook, Site
from tests.appliance.stack import NVME_LABELS, at_rest, cache_is, look

pytestmark = pytest.mark.heavy

NO_TEMPLATES: dict[str, Any] = {"clone_templates_items": []}
READY = 300.0
"""Seconds that the kernel, and the service after it, may take on a busy machine to notice what was done to a drive."""


def nvme(number: int) -> Drive:
    return Drive(f"FAST{number}", Bus.NVME, 2 * GIB)


def disks(count: int, **change: Any) -> tuple[Drive, ...]:
    return tuple(Drive(f"SLOW{number}", Bus.SCSI, GIB, **change) for number in range(1, count + 1))


def shape(drives: tuple[Drive, ...], members: tuple[Drive, ...], **change: Any) -> dict[str, Any]:
    """The variables of a store on these NVMe drives and disks; it has no template."""
    named = {
        "nvme_cache_devices": [each.by_id for each in drives],
        "backend_raid_disks": [each.by_id for each in members],
    }
    return {**named, **NO_TEMPLATES, **change}


def serials(*drives: Drive) -> tuple[str, ...]:
    return tuple(sorted(drive.serial for drive in drives))


def checked(site: Site, wanted: dict[str, Any], *new: Drive) -> None:
    """Check mode says that there is something to do, and leaves the new drives alone: all, unless some are named."""
    before = site.disks(*new)
    play = site.play("--check", "--diff", **wanted)
    print("check:", play.changed, "tasks would change something")
    assert play.failed == 0, play.said
    assert play.changed > 0, play.said
    assert site.disks(*new) == before


def applied(site: Site, wanted: dict[str, Any]) -> Play:
    play = site.play(**wanted)
    print("play:", play.changed, "tasks changed something")
    assert play.failed == 0, play.said
    assert play.changed > 0, play.said
    return play


def settled(site: Site, wanted: dict[str, Any]) -> None:
    """There is nothing more to do, says check mode, and a run does nothing."""
    for words in (("--check",), ()):
        play = site.play(*words, **wanted)
        print("again:", *words, play.changed, "tasks")
        assert (play.failed, play.changed) == (0, 0), play.said


def healthy(site: Site) -> None:
    """The appliance says so itself, too."""

    def problems() -> list[Any]:
        found: list[Any] = site.remote_command().get("status")["problems"]
        print("problems:", found)
        return found

    until(lambda: problems() == [], "no problem to be left", deadline=READY, interval=2)
    assert site.failed_units() == ""


def pool_size(site: Site) -> int:
    """Bytes of the durable pool's data."""
    found: int = site.remote_command().get("status")["store"]["pool"]["data_total"]
    return found


def test_disks_with_sectors_of_4_kib() -> None:
    fast, slow = nvme(0), disks(3, sector=4096)
    with booted((fast, *slow)) as site:
        wanted = shape((fast,), slow)
        checked(site, wanted)
        applied(site, wanted)
        settled(site, wanted)
        stack = at_rest(site)
        assert {disk.serial: stack.sectors[disk.serial] for disk in slow} == dict.fromkeys(serials(*slow), 4096)
        backend, meta = stack.arrays["backend"], stack.arrays["meta"]
        assert (backend.level, backend.policy, backend.members) == ("raid5", "ppl", serials(*slow))
        assert (meta.level, meta.members) == ("raid1", (fast.serial, "an array"))
        assert cache_is(stack, "writethrough")
        healthy(site)


def test_two_nvme_drives_in_writeback_over_raid10_and_one_of_them_dies() -> None:
    first, second, third = nvme(0), nvme(1), nvme(2)
    slow = disks(4)
    with booted((first, second, third, *slow)) as site:
        wanted = shape((first, second), slow, backend_raid_level="raid10", clone_store_cache_mode="writeback")
        checked(site, wanted)
        applied(site, wanted)
        settled(site, wanted)
        stack = at_rest(site)
        backend, meta, cache = (stack.arrays[name] for name in ("backend", "meta", "cache"))
        assert (backend.level, backend.places, backend.members) == ("raid10", 4, serials(*slow))
        assert (meta.level, meta.places, meta.members) == ("raid1", 3, (*serials(first, second), "an array"))
        assert (cache.level, cache.places, cache.members) == ("raid1", 2, serials(first, second))
        assert stack.labels[first.serial] == stack.labels[second.serial] == NVME_LABELS
        assert cache_is(stack, "writeback")
        healthy(site)

        unplug(site, second, "cache")
        assert cache_is(look(site), "writeback")
        wanted = {**wanted, "nvme_cache_devices": [first.by_id, third.by_id]}
        checked(site, wanted, third)
        applied(site, wanted)
        stack = at_rest(site)
        settled(site, wanted)
        assert stack.arrays["meta"].members == (*serials(first, third), "an array")
        assert stack.arrays["cache"].members == serials(first, third)
        assert stack.labels[third.serial] == NVME_LABELS
        assert cache_is(stack, "writeback")
        # Ephemeral clones, which are on NVMe alone, went with the drive: their pool is made anew at an operator's word.
        site.vm.ssh(["hatchery-store", "recreate-fast", "--lose-ephemeral-clones"], timeout=300)
        healthy(site)


def test_raid6_of_six_disks_and_one_of_them_dies() -> None:
    fast, (*slow, spare) = nvme(0), disks(7)
    with booted((fast, *slow, spare)) as site:
        wanted = shape((fast,), tuple(slow), backend_raid_level="raid6")
        checked(site, wanted)
        applied(site, wanted)
        settled(site, wanted)
        backend = at_rest(site).arrays["backend"]
        assert (backend.level, backend.places, backend.members) == ("raid6", 6, serials(*slow))
        healthy(site)

        unplug(site, slow[2], "backend")
        left = (*slow[:2], *slow[3:])
        wanted = shape((fast,), (*slow[:2], spare, *slow[3:]), backend_raid_level="raid6")
        checked(site, wanted, spare)
        applied(site, wanted)
        settled(site, wanted)
        backend = at_rest(site).arrays["backend"]
        assert (backend.places, backend.members) == (6, serials(*left, spare))
        healthy(site)


def test_a_play_that_is_killed_half_way_is_run_again_and_the_array_grows() -> None:
    fast, slow = nvme(0), disks(4)
    with booted((fast, *slow)) as site:
        wanted = shape((fast,), slow[:3])
        checked(site, wanted)
        kill_half_way(site, wanted)
        applied(site, wanted)
        settled(site, wanted)
        backend = at_rest(site).arrays["backend"]
        assert (backend.level, backend.policy, backend.members) == ("raid5", "ppl", serials(*slow[:3]))
        healthy(site)
        size = pool_size(site)

        wanted = shape((fast,), slow)
        checked(site, wanted, slow[3])
        applied(site, wanted)
        new = "the pool to have the new disk's space"
        until(lambda: pool_size(site) > size + GIB // 2, new, deadline=2 * READY, interval=5)
        settled(site, wanted)
        stack = at_rest(site)
        backend = stack.arrays["backend"]
        assert (backend.places, backend.policy, backend.members) == (4, "ppl", serials(*slow))
        assert stack.labels["backend"] == ["hatchery-meta", "hatchery-data", "hatchery-data-2"]
        assert len(stack.caches) == 2
        healthy(site)


def test_two_appliances_in_one_inventory() -> None:
    fast, slow = nvme(0), disks(3)
    with booted((fast, *slow)) as one, booted((fast, *slow)) as other:
        other.vm.ssh(["mkfs.ext4", "-q", "-L", "precious", slow[1].by_id], timeout=300)
        shapes = {BOX: shape((fast,), slow), "other": shape((fast,), slow[::2], backend_raid_level="raid1")}
        sites = {BOX: one, "other": other}

        def deploy(*words: str, **change: Any) -> dict[str, Play]:
            hosts = {name: site.variables({**shapes[name], **change}) for name, site in sites.items()}
            return Playbook("deploy", one.vm.folder, hosts).run(*words, timeout=1500)

        planned = deploy("--check", "--diff")
        assert [play.failed for play in planned.values()] == [0, 0], planned[BOX].said
        made = deploy()
        assert [play.failed for play in made.values()] == [0, 0], made[BOX].said
        assert all(play.changed for play in (*planned.values(), *made.values()))
        for words in (("--check",), ()):
            again = deploy(*words)
            assert [(play.failed, play.changed) for play in again.values()] == [(0, 0), (0, 0)], again[BOX].said
        backends = [at_rest(site).arrays["backend"] for site in (one, other)]
        assert [array.level for array in backends] == ["raid5", "raid1"]
        assert [array.members for array in backends] == [serials(*slow), serials(*slow[::2])]
        for site in (one, other):
            healthy(site)
        assert "precious" in other.vm.ssh(["blkid", "-p", slow[1].by_id]).stdout


def unplug(site: Site, drive: Drive, array: str) -> None:
    """Take a drive away that an array is on, as the kernel sees it, and let the array notice: reads do that."""
    end = "delete" if drive.bus is Bus.SCSI else "device/remove"
    script = 'name=$(readlink -f "$1"); echo 1 >"/sys/block/${name##*/}/device/$2"'
    site.vm.ssh(["sh", "-c", script, "sh", drive.by_id, end])
    read = ["dd", "if=/dev/bcache0", "of=/dev/null", "bs=1M", "count=64", "skip=256", "iflag=direct"]
    site.vm.ssh(read)
    until(lambda: look(site).arrays[array].degraded == 1, f"{array} to miss a drive", deadline=READY, interval=2)


def kill_half_way(site: Site, wanted: dict[str, Any]) -> None:
    """Kill a play, here and on the appliance, as soon as there is an array, and before that is finished."""
    playbook = Playbook("deploy", site.vm.folder, {BOX: site.variables(wanted)})
    watch = "until grep -q ^md /proc/mdstat; do sleep 0.05; done; pkill -KILL -f '[h]atchery-store setup backend'"
    with playbook.start() as play:
        site.vm.ssh(["sh", "-c", watch], timeout=900)
        play.kill()
    settings = site.vm.ssh(["ls", "/etc/hatchery/conf.d"]).stdout.split()
    assert settings == ["10-nvme.toml"], settings
