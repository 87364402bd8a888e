"""Rule 2: only sealed templates are read ahead into the cache, never a volume that somebody may be writing."""

import pytest

from tests.kernel.inside import rules, service, volumes
from tests.kernel.lab import InsideError, Lab

CHECK = "tests.kernel.inside.rules:check_sealed"
PLACES = "tests.kernel.inside.rules:content_at_its_places"
MIB = 16


def test_whatever_can_be_written_is_refused(store: Lab) -> None:
    store.call(volumes.make_template, 1, MIB)
    clone = store.call(volumes.make_clone, 2, 1, MIB)
    staging = store.call(rules.plain_volume, 3, MIB)
    importing = store.call(rules.importing_template, 4, MIB)
    below = clone.replace("-clone-", "-thin-")
    for device in (clone, below, staging, importing):
        with pytest.raises(InsideError) as caught:
            store.call(CHECK, device)
        assert caught.value.kind == "Refused", device
    store.call(CHECK, store.call(volumes.activate_template, 1, MIB))


def test_what_is_read_of_the_pools_data_is_the_templates(store: Lab) -> None:
    """Also when another volume came in between, a clone was written to, and where the template has holes."""
    whole = store.call(volumes.make_template, 1, MIB)
    clone = store.call(volumes.make_clone, 2, 1, MIB)
    store.call(volumes.fill, clone, 5, MIB // 2)
    store.call(volumes.make_template, 3, MIB)
    size = MIB << 20
    assert store.call(PLACES, 1, [(0, size)]) == [size, whole]
    assert store.call(PLACES, 1, [(0, 2 * size)]) == [size, whole], "there is nothing past its end"
    half, _ = store.call(PLACES, 1, [(0, size // 4 + 4096), (size // 2, size // 4)])
    assert half == size // 2 + 4096


def test_warming_reads_the_template_and_no_clone(store: Lab) -> None:
    store.begin(["hatcheryd"])
    store.call(service.up)
    store.call(service.add_image, "debian")
    store.call(service.clones, "web", "debian")
    with pytest.raises(InsideError) as caught:
        store.call(service.warm, "web-1")
    assert caught.value.kind == "NotFound"
    store.call(service.cold)
    before = store.call(rules.reads_by_layer)
    store.call(service.warm, "debian")
    after = store.call(rules.reads_by_layer)
    assert after["template"] - before["template"] > 0, "the counters do not show the reading"
    assert after["clone"] == before["clone"]
    assert after["thin"] == before["thin"]
