"""One recording of a boot: what of it is kept, and when it has ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.host.trace import Request
from appliance.model import KIB, TemplateRef
from appliance.service.recording import LONGEST, MOST_READS, QUIET, Recording
from tests.unit.learning_box import learner
from tests.unit.service_harness import Box

BLOCK = 64 * KIB


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with learner(tmp_path) as made:
        yield made


def recording(box: Box) -> Recording:
    catalog = box.service.core.catalog
    [clone] = box.service.clones.create("one", "debian", None, None)
    return Recording(catalog.template(TemplateRef("debian")), clone, "254:9", BLOCK)


def asked(offset: int, length: int, micros: int, *, write: bool = False) -> Request:
    return Request("254:9", write, offset, length, micros)


def test_reads_are_kept_in_order_with_the_time_since_the_first(box: Box) -> None:
    made = recording(box)
    made.add(asked(8192, 4096, 1_000_000))
    made.add(asked(0, 512, 1_000_500))
    assert [(read.offset, read.length, read.micros) for read in made.reads] == [(8192, 4096, 0), (0, 512, 500)]
    assert made.total == 8192  # whole pages


def test_the_first_write_to_part_of_a_block_reads_all_of_it(box: Box) -> None:
    made = recording(box)
    made.add(asked(BLOCK - 4096, 3 * BLOCK, 5, write=True))
    # The two in the middle are replaced, the first and the last are copied.
    assert sorted((read.offset, read.length) for read in made.reads) == [(0, BLOCK), (3 * BLOCK, BLOCK)]
    made.add(asked(0, 4096, 6, write=True))
    made.add(asked(BLOCK, 2 * BLOCK, 7))
    assert len(made.reads) == 2, "the clone's own blocks are not the template's"
    made.add(asked(3 * BLOCK, 2 * BLOCK, 8))  # half of it is
    assert len(made.reads) == 3


def test_what_is_read_again_and_again_is_kept_once(box: Box) -> None:
    made = recording(box)
    for at in range(1000):
        made.add(asked(0, 4096, at))
    made.add(asked(0, 8192, 1000))
    assert [(read.offset, read.length) for read in made.reads] == [(0, 4096), (0, 8192)]


def test_a_write_past_the_template_reads_nothing_of_it(box: Box) -> None:
    made = recording(box)
    size = box.service.show_template("debian").size
    made.add(asked(-(-size // BLOCK) * BLOCK + 4096, 4096, 0, write=True))
    assert made.reads == []


def test_a_boot_ends_when_nothing_new_is_read_or_it_takes_too_long(box: Box) -> None:
    made = recording(box)
    assert not made.over(10**12)
    made.add(asked(0, 4096, 0))
    made.add(asked(4096, 4096, QUIET - 1))
    made.add(asked(0, 4096, 2 * QUIET - 2))
    assert not made.over(2 * QUIET - 2)
    assert made.over(2 * QUIET - 1), "what was read before is no news"
    for at in range(0, LONGEST, QUIET // 2):
        made.add(asked(at, 4096, at))
        assert not made.over(at)
    assert made.over(LONGEST)


def test_a_boot_of_too_many_reads_ends(box: Box) -> None:
    made = recording(box)
    for number in range(MOST_READS + 1):
        made.add(asked(number * 4096, 4096, number))
    assert made.over(MOST_READS)
    assert len(made.reads) == MOST_READS
