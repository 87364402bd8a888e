"""A service on the model store whose templates' boot sets are read, and a boot set for them."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance import wait
from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.bootset.extents import PAGE
from appliance.bootset.file import BootSetFile
from appliance.model import MIB, Extent, Health
from appliance.schema import CacheView, StoreView
from appliance.service import prefetching
from tests.unit import service_harness
from tests.unit.service_harness import IMAGE, Box

SIZE = len(IMAGE)
OWN = hashlib.sha256(IMAGE).hexdigest()
"""What makes a boot set a template's own, learned from its content."""
CACHE = 64 * MIB
EXTENTS = (Extent(MIB, 64 * PAGE), Extent(0, 2 * PAGE))


def as_file(extents: tuple[Extent, ...] = EXTENTS, sha256: str | None = None, size: int = SIZE) -> str:
    """A boot set as a file, of a template with that content."""
    return file.dump(BootSetFile("other@1", sha256, BootSet(extents, size, 3)))


def missing() -> Callable[[], tuple[int, int]]:
    """A flow that has a MiB more from the backend each time."""
    count = 0

    def flow() -> tuple[int, int]:
        nonlocal count
        count += MIB
        return count, 0

    return flow


def store(*, attached: bool = True) -> StoreView:
    """A store with a cache of CACHE bytes."""
    cache = CacheView(
        health=Health.OK,
        attached=attached,
        mode="writethrough",
        size=CACHE,
        settings_ok=True,
        bypassed_bytes=0,
        available_percent=None,
    )
    return StoreView(backend=None, meta=None, cache=cache, pool=None)


@contextmanager
def box(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """The service. Its volumes are files, which have no read-only flag; tests/kernel/test_rule_02_prefetch.py has real
    ones."""
    monkeypatch.setattr(prefetching, "check_sealed", lambda _: None)
    with service_harness.box(folder) as made:
        yield made


def settled(made: Box) -> None:
    """Wait until no template is read."""
    ids = [template.thin_id for template in made.service.core.catalog.templates()]
    wait.until(lambda: not any(map(made.service.prefetching.is_busy_with, ids)), "the prefetch", deadline=10)
