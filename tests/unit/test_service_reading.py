"""A look at whether the cache has lost something: how many pages it takes, and what it makes of doubtful ones."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from appliance.bootset import prefetch
from appliance.bootset.extents import PAGE
from appliance.bootset.prefetch import Doubt, Surroundings
from appliance.catalog import Template
from appliance.model import Extent
from appliance.service import reading
from appliance.service.core import Core
from appliance.service.ports import CacheWatch
from appliance.service.reading import LOOKS, SAMPLE, Reading

BUSY, ALONE = False, True


class Disk:
    """What each look at a disk tells: of how many pages it is in doubt, and whether the backend was theirs alone."""

    def __init__(self, patch: pytest.MonkeyPatch, *told: tuple[int, bool]) -> None:
        self.looks: list[Sequence[Extent]] = []
        self.stop = threading.Event()
        self.stopped_after = 99
        self._told = told
        self._reading = Reading(cast(Core, None), CacheWatch(lambda: lambda: (0, 0), lambda: 0, lambda: 0))
        patch.setattr(prefetch, "read_once", self._read)

    def _read(self, _device: Path, sample: Sequence[Extent], _around: Surroundings) -> tuple[Doubt, ...]:
        assert self._reading._turn.locked(), "others read at the same time"
        count, alone = self._told[len(self.looks)]
        self.looks.append(sample)
        if len(self.looks) == self.stopped_after:
            self.stop.set()
        return tuple(Doubt(piece, PAGE, alone and number == 0) for number, piece in enumerate(sample[:count]))

    def lost(self, pages: int = 10 * SAMPLE) -> bool:
        # Two extents, with a gap between them.
        extents = (Extent(0, PAGE), Extent(8 * PAGE, (pages - 1) * PAGE))
        template = cast(Template, None)  # for its holes alone
        return self._reading.lost(template, Path("disk"), extents, self.stop, holes=False)


MOST = int(reading.DOUBTED * SAMPLE)
"""So many pages in doubt may all be guests'."""


@pytest.mark.parametrize(
    ("told", "lost"),
    [
        pytest.param([(0, BUSY)], False, id="nothing came from the backend"),
        pytest.param([(1, ALONE)], True, id="a page did, for nobody else"),
        pytest.param([(SAMPLE, BUSY), (0, BUSY)], False, id="it was for guests"),
        pytest.param([(MOST, BUSY), (1, ALONE)], True, id="it was not for guests alone"),
        pytest.param([(1, BUSY), (MOST + 1, BUSY), (0, BUSY)], False, id="it was for guests, as the last look tells"),
        pytest.param([(SAMPLE, BUSY), (SAMPLE, BUSY), (MOST, BUSY)], False, id="doubtful to the end, and few"),
        pytest.param([(1, BUSY), (1, BUSY), (MOST + 1, BUSY)], True, id="doubtful to the end, and many"),
    ],
)
def test_what_is_in_doubt_is_looked_at_again_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[int, bool]], *, lost: bool
) -> None:
    disk = Disk(monkeypatch, *told)
    assert disk.lost() is lost
    assert len(disk.looks) == len(told)


def test_each_look_is_at_other_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were read once are in the cache."""
    disk = Disk(monkeypatch, *[(1, BUSY)] * LOOKS)
    disk.lost(LOOKS * SAMPLE)
    assert [len(look) for look in disk.looks] == [SAMPLE] * LOOKS
    asked = {page.offset for look in disk.looks for page in look}
    assert asked == {0, *range(8 * PAGE, (8 + LOOKS * SAMPLE - 1) * PAGE, PAGE)}, "all pages, each once"
    assert {page.length for look in disk.looks for page in look} == {PAGE}
    middle = (8 + LOOKS * SAMPLE // 2) * PAGE
    for look in disk.looks:
        assert list(look) == sorted(look, key=lambda page: page.offset), "in the order of the disk"
        assert any(page.offset < middle for page in look), "from everywhere"
        assert any(page.offset >= middle for page in look), "from everywhere"


@pytest.mark.parametrize(("pages", "looks"), [(2, 1), (SAMPLE, 1), (2 * SAMPLE - 1, 1), (2 * SAMPLE, 2)])
def test_there_are_fewer_looks_where_there_are_not_so_many_pages(
    monkeypatch: pytest.MonkeyPatch, pages: int, looks: int
) -> None:
    disk = Disk(monkeypatch, *[(SAMPLE, BUSY)] * LOOKS)
    assert disk.lost(pages)
    assert [len(look) for look in disk.looks] == [min(pages, SAMPLE)] * looks


def test_one_that_is_stopped_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, *[(1, BUSY)] * LOOKS)
    disk.stopped_after = 1
    assert not disk.lost()
    assert len(disk.looks) == 1
