"""The durable pool from inside: what each verb does and refuses. Each function is one story, and asserts it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.errors import AlreadyExists, HatcheryError, InUse, NotFound, Refused, Unhealthy
from appliance.host.dm import Dm
from appliance.model import MIB, Access
from appliance.store.health import Store
from appliance.store.names import Layer
from appliance.store.pool import Pool
from tests.kernel.inside import volumes


@contextmanager
def raises(kind: type[Exception], word: str = "") -> Iterator[None]:
    """The block must raise ``kind`` with ``word`` in its text; pytest itself is not installed inside."""
    try:
        yield
    except kind as error:
        if word not in str(error):
            raise AssertionError(f"{error!r} does not say {word!r}") from error
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def pool() -> Pool:
    """The running pool."""
    return Pool.open(Dm())


def life_of_volumes() -> None:
    """Thin devices are made, found, snapshotted, deleted; mistakes are named; nothing is left."""
    found = pool()
    empty = found.status().data_used
    assert found.thin_ids() == frozenset()
    found.create_thin(1)
    assert found.exists(1)
    assert not found.exists(2)
    with raises(AlreadyExists):
        found.create_thin(1)
    with raises(NotFound):
        found.create_snapshot(3, 2)
    with raises(NotFound):
        found.delete(2)
    path = found.activate_template(1, 8 * MIB, Access.READ_WRITE)
    with raises(Refused, "snapshot"):
        found.create_snapshot(2, 1)
    with raises(InUse, "hatchery-template-1"):
        found.delete(1)
    volumes.write(path, volumes.content(1, 8))
    assert found.mapped_bytes(1) == 8 * MIB
    assert found.activate_template(1, 8 * MIB, Access.READ_ONLY) == path
    with raises(OSError):
        volumes.write(path, volumes.content(2, 1))
    found.create_snapshot(2, 1)
    clone = found.activate_clone(2, 8 * MIB)
    assert found.active() == {1: {Layer.TEMPLATE}, 2: {Layer.THIN, Layer.CLONE}}
    assert found.activate_clone(2, 8 * MIB) == clone
    before = volumes.digest(str(path), 8)
    assert volumes.digest(str(clone), 8) == before
    volumes.write(clone, volumes.content(9, 1), MIB)
    assert volumes.digest(str(path), 8) == before
    assert found.status().data_used - empty == 9 * MIB
    assert found.thin_ids() == {1, 2}
    for thin_id in (2, 1):
        found.deactivate(thin_id)
        found.deactivate(thin_id)
        found.delete(thin_id)
    assert found.status().data_used == empty
    assert found.thin_ids() == frozenset()
    assert found.active() == {}


def an_open_volume_stays() -> None:
    """Deactivating names the layer that somebody has open, and works once it is closed."""
    found = pool()
    found.create_thin(5)
    path = found.activate_clone(5, MIB)
    fd = os.open(path, os.O_RDONLY)
    with raises(InUse, "hatchery-clone-5"):
        found.deactivate(5)
    os.close(fd)
    found.deactivate(5)
    found.delete(5)


def large_volumes_go_in_pieces() -> None:
    """A volume with much in it is emptied before it is deleted, and all comes back."""
    found = pool()
    empty = found.status().data_used
    found.create_thin(6)
    path = found.activate_staging(6, 512 * MIB)
    piece = volumes.content(6, 1) * 16
    for at in range(0, 320, 16):
        volumes.write(path, piece, at * MIB)
    assert found.mapped_bytes(6) == 320 * MIB
    found.deactivate(6)
    found.delete(6)
    assert found.status().data_used == empty
    assert not found.exists(6)


def transaction_ids_are_compared_and_swapped() -> None:
    """The pool's id moves only from the value that is named."""
    found = pool()
    start = found.status().transaction_id
    found.set_transaction_id(start, start + 1)
    with raises(Unhealthy, str(start + 1)):
        found.set_transaction_id(start, start + 2)
    assert found.status().transaction_id == start + 1


def a_left_over_metadata_snapshot_is_no_obstacle() -> None:
    """A process that died between reserve and release does not lock others out."""
    found = pool()
    Dm().message("hatchery-pool-durable", "reserve_metadata_snap")
    assert found.thin_ids() == frozenset()


def latencies_are_counted() -> None:
    """A clone's histogram counts its requests, all of them."""
    found, look = pool(), volumes.store()
    found.create_thin(7)
    path = found.activate_clone(7, 4 * MIB)
    before = look.clone_latencies(7)
    volumes.digest(str(path), 4, request=65536)
    assert (look.clone_latencies(7) - before).total == 64
    counted = look.counters([7]).clones[7]
    assert (counted.reads, counted.read_bytes) == (64, 4 * MIB)
    with raises(HatcheryError):
        look.clone_latencies(8)
    found.deactivate(7)
    found.delete(7)


def roles_of_disks(look: Store | None = None) -> dict[str, str]:
    """What each disk is for."""
    return dict((look or volumes.store()).disk_roles())
