"""Rule 14: an import writes through the cache, which lets go of what was used longest ago, not of what is warm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import boot_set, import_load, setup
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab, Options
from tests.kernel.service_lab import Daemon

MIB = 1024 * 1024
SMALL = Options(disk_bytes=300 * MIB, nvme_bytes=512 * MIB)
"""A cache of about 300 MiB below a pool of about 500."""

WARM, OLD, NEW = 1, 2, 3
SIZES = {WARM: 32, OLD: 230, NEW: 140}


@pytest.fixture
def small(tree: Path) -> Iterator[Lab]:
    with Lab(tree, SMALL) as lab:
        lab.call(setup.part, "nvme", meta_bytes=128 * MIB, fast_bytes=64 * MIB)
        lab.call(setup.part, "backend")
        lab.call(setup.part, "store")
        yield lab


def missed(lab: Lab, template: int) -> int:
    found: int = lab.call(import_load.missed, template, SIZES[template], timeout=120)
    return found


def test_an_import_larger_than_the_free_cache_leaves_a_warm_template_warm(small: Lab) -> None:
    for template in (WARM, OLD):
        small.call(import_load.take, template, SIZES[template], timeout=180)
    passes = [missed(small, WARM) for _ in range(4)]
    assert passes[-1] == 0, f"the template does not become warm: {passes}"
    small.call(import_load.take, NEW, SIZES[NEW], timeout=180)
    assert missed(small, WARM) <= SIZES[WARM] * MIB // 100
    assert missed(small, OLD) > 0, "nothing had to go: the import was not larger than the free cache"


def test_a_template_that_was_never_booted_is_warm_all_the_same(small: Lab) -> None:
    """Of what an import writes bcache keeps what it has a free bucket for at once: the service reads the rest."""
    daemon = Daemon(small)
    data = 32 * MIB
    small.call(import_load.add, "debian", 32, timeout=180)
    fetched = small.call(boot_set.settled, why="the template is new", timeout=160)
    print(fetched)
    assert (fetched["state"], fetched["total_bytes"]) == ("warm", data), "its holes are not read"
    assert fetched["backend_bytes"] > data // 100, "the import left all of it in the cache: there was nothing to do"
    assert_warm(small.call(import_load.boot, "first", "debian", 32, timeout=120), data)

    small.call(boot_set.cold)
    booted = small.call(import_load.boot, "cold", "debian", 32, timeout=120)
    assert booted["backend"] >= data * 0.99, "it was not cold"
    small.call(boot_set.cold)
    daemon.restart()
    fetched = small.call(boot_set.settled, why="the cache was found without it", timeout=160)
    print(fetched)
    assert (fetched["state"], fetched["total_bytes"]) == ("warm", data)
    assert_warm(small.call(import_load.boot, "again", "debian", 32, timeout=120), data)

    # What would push everything else out is not read, and that is told.
    small.call(import_load.add, "large", 170, timeout=240)
    left_out = small.call(boot_set.settled, "large", timeout=60)
    assert (left_out["state"], left_out["passes"], left_out["left_bytes"]) == ("incomplete", 0, 170 * MIB)
    assert "no room for all of it" in small.call(boot_set.hatchery, "template", "show", "large")
    assert small.call(inside.status)["problems"] == [], "it is for its first boot alone"

    # A boot set that has no room is told, until one is in.
    small.call(import_load.give_boot_set, "large", 168)
    [problem] = small.call(inside.status)["problems"]
    assert problem["what"] == "the boot set of large@1 is not wholly in the cache"
    assert problem["what"] in small.call(boot_set.hatchery, "status")
    total = small.call(import_load.give_boot_set, "large", 8)
    fetched = small.call(boot_set.settled, "large", why="a boot set was given", timeout=60)
    print(fetched)
    assert (fetched["state"], fetched["total_bytes"]) == ("warm", total)
    assert small.call(inside.status)["problems"] == []
    print(daemon.job.stderr)


def assert_warm(found: dict[str, int], data: int) -> None:
    """The bytes of a boot that reads all: 99 of 100 came from the cache."""
    print(found)
    assert found["backend"] <= data // 100
    assert found["cache"] >= data - data // 100
