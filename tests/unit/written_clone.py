"""A box with a template, a durable clone of it that was written to, and a fast pool; and what is asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.catalog import Clone
from appliance.model import MIB, PoolName
from appliance.schema import CloneCreate
from tests.unit.model import ModelPool
from tests.unit.service_harness import IMAGE, Box, box

MINE = b"mine" + IMAGE[4:]
OTHER = b"newer" * 1024 + bytes(2 * MIB)


@contextmanager
def written(folder: Path) -> Iterator[Box]:
    """The clone is ``web``, and holds ``MINE``."""
    with box(folder) as made:
        (folder / "fast").mkdir()
        made.pools[PoolName.FAST] = ModelPool(folder / "fast", name="drive-1")
        made.restart()
        assert made.add_template("debian").state == "succeeded"
        create(made, "web")
        device(made, "web").write_bytes(MINE)
        yield made


def create(box: Box, name: str, template: str = "debian", **more: object) -> Clone:
    """Make clones; the first of them."""
    wanted = CloneCreate.model_validate({"name": name, "template": template, **more})
    return clone(box, box.service.create_clones(wanted).clones[0].name)


def clone(box: Box, name: str) -> Clone:
    return box.service.core.catalog.clone(name)


def device(box: Box, name: str) -> Path:
    """The active device of a clone."""
    found = clone(box, name)
    return box.pools[found.pool].path(found.thin_id)


def content(box: Box, name: str) -> bytes:
    found = clone(box, name)
    return box.pools[found.pool].bytes_of(found.thin_id)


def whole(box: Box) -> None:
    """Catalog, pools and devices agree, and nothing is left over."""
    assert box.service.plan().steps == ()
    assert box.service.plan().problems == ()
    assert box.service.core.catalog.garbage() == ()
    known = box.service.core.catalog.thin_ids()
    assert known == {thin_id for pool in box.pools.values() for thin_id in pool.volumes}
