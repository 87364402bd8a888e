"""Power cuts under the catalog: each acknowledged transaction is there afterwards."""

import sqlite3
from pathlib import Path

from appliance.catalog import Catalog, Client
from appliance.catalog.condition import Condition, look
from appliance.host import mount
from appliance.host.dm import Dm
from appliance.model import MIB
from appliance.run import Runner
from tests.kernel.inside import log_writes
from tests.kernel.inside.log_writes import Cut

SIZE = 64 * MIB
TARGET = Path("/run/state")
OPTIONS = "noatime,nodev,nosuid,noexec,errors=remount-ro"


def record(count: int, durable: bool) -> None:
    """Change a catalog ``count`` times, each acknowledged by a mark; not ``durable``: as it must not be."""
    runner, dm = Runner(), Dm()
    with log_writes.logged(dm, SIZE) as mark:
        device = dm.path(log_writes.LOGGED)
        runner.run(["mkfs.ext4", "-q", "-F", "-m", "1", "-E", "nodiscard", device])
        mount.mount(runner, device, TARGET, OPTIONS)
        try:
            catalog = Catalog(TARGET / "catalog.db")
            if not durable:
                catalog._db.execute("PRAGMA synchronous = OFF")
            Runner().run(["sync", "-f", TARGET])
            mark("ready")
            for number in range(count):
                _change(catalog, number)
                mark(f"ack={number}")
            catalog.close()
        finally:
            mount.unmount(runner, TARGET, deadline=30)


def _change(catalog: Catalog, number: int) -> None:
    catalog.put_client(Client(_name(number), "unix"))
    if number % 3 == 2:
        catalog.drop_client(_name(number - 1))


def _name(number: int) -> str:
    return f"client-{number}"


def _wanted(acknowledged: int) -> set[str]:
    names: set[str] = set()
    for number in range(acknowledged + 1):
        names.add(_name(number))
        if number % 3 == 2:
            names.discard(_name(number - 1))
    return names


def check(device: Path, cut: Cut) -> None:
    """The file system mounts, and the catalog is whole and holds what was acknowledged, and no more than was begun."""
    runner = Runner()
    mount.mount(runner, device, TARGET, OPTIONS)
    try:
        path = TARGET / "catalog.db"
        found = look(path)
        assert found.condition is Condition.GOOD, found
        catalog = Catalog(path)
        try:
            names = {client.name for client in catalog.clients()}
        finally:
            catalog.close()
        least, most = _wanted(cut.acknowledged), _wanted(cut.acknowledged + 1)
        begun = {_name(cut.acknowledged + 1)}
        assert names in (least, least | begun, most), sorted(names ^ least)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
    finally:
        mount.unmount(runner, TARGET, deadline=30)


def replay(most: int, seed: int) -> dict[str, int]:
    """Check all cuts, or ``most`` of them."""
    return log_writes.replay(SIZE, check, most=most, seed=seed)
