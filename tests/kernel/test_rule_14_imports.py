"""Rule 14: an import writes through the cache, which lets go of what was used longest ago, not of what is warm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import import_load, setup
from tests.kernel.lab import Lab, Options

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
