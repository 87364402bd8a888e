from dataclasses import dataclass, replace

import pytest

from appliance.errors import NoSpace
from appliance.model import GIB, KIB, MIB
from appliance.service import admission


@dataclass(frozen=True)
class Numbers:
    transaction_id: int = 1
    data_used: int = 0
    data_total: int = 100 * MIB
    metadata_used: int = 0
    metadata_total: int = 4 * MIB
    block_bytes: int = 64 * KIB


EMPTY = Numbers()


def test_an_image_must_fit_into_the_whole_pool_beside_the_headroom() -> None:
    admission.admit_size(EMPTY, 95 * MIB)
    with pytest.raises(NoSpace, match="larger than the pool"):
        admission.admit_size(EMPTY, 95 * MIB + 1)


def test_data_is_counted_with_what_others_were_promised() -> None:
    half = replace(EMPTY, data_used=50 * MIB)
    admission.admit_data(half, 45 * MIB)
    admission.admit_data(half, 25 * MIB, promised=20 * MIB)
    with pytest.raises(NoSpace, match=r"25\.00 MiB are needed, 24\.00 MiB are free"):
        admission.admit_data(half, 25 * MIB, promised=21 * MIB)


def test_metadata_is_refused_before_it_is_full() -> None:
    full = replace(EMPTY, metadata_used=admission.usable(4 * MIB) - 100)
    admission.admit_data(full, 64 * KIB)
    with pytest.raises(NoSpace, match="metadata"):
        admission.admit_data(full, 128 * KIB)


def test_clones_need_room_for_their_first_writes() -> None:
    limit = admission.usable(EMPTY.data_total)
    tight = replace(EMPTY, data_used=limit - 128 * KIB)
    admission.admit_clones(tight, 2)
    with pytest.raises(NoSpace, match="not enough space"):
        admission.admit_clones(tight, 3)
    used = admission.usable(EMPTY.metadata_total) - 2 * admission.METADATA_PER_CLONE
    tight = replace(EMPTY, metadata_used=used)
    admission.admit_clones(tight, 2)
    with pytest.raises(NoSpace, match="metadata"):
        admission.admit_clones(tight, 3)


@pytest.mark.parametrize(("percent", "most"), [(100, 100 * MIB), (250, 250 * MIB), (0, 1000 * GIB)])
def test_promises_end_where_the_ratio_says(percent: int, most: int) -> None:
    admission.admit_promise(EMPTY, most - 30 * MIB, 30 * MIB, percent)
    if percent:
        with pytest.raises(NoSpace, match="overcommit"):
            admission.admit_promise(EMPTY, most - 30 * MIB + 1, 30 * MIB, percent)
