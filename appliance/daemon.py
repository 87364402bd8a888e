"""``hatcheryd``: brings the service up in order and serves its API on a unix socket.

Order: catalog opened and migrated, catalog and pool brought to agree, attached clones activated and exported, API
loaded, socket listening, ``READY=1``. When it ends, exports go on.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from appliance import config, journal
from appliance.catalog import Catalog
from appliance.catalog.condition import Condition, look
from appliance.config import Paths
from appliance.errors import HatcheryError, NotReady, Unhealthy
from appliance.host.audit import unasked
from appliance.host.dm import Dm
from appliance.host.notify import notify
from appliance.host.nvmet_request import UnitTarget
from appliance.host.units import Direct, Systemd, Units, booted_with_systemd, run_to_its_end
from appliance.images import fetch, unpacking
from appliance.images.convert import Converter, PlainConverter, SandboxedConverter
from appliance.images.sources import open_url
from appliance.model import PoolName
from appliance.run import Runner
from appliance.service.kernel import KernelStore
from appliance.service.service import Service
from appliance.store.machine import Machine
from appliance.store.pool import Pool

log = logging.getLogger(__name__)

NOISY = ("httpx", "httpcore", "asyncio")
"""Libraries of whose lines only warnings are wanted. The first one logs each URL that it asks for as it is."""

MEND = "hatchery-mend.service"
"""Does what ``hatchery-store up`` does, with privileges that hatcheryd has not."""

MEND_SECONDS = 660.0
"""The unit's own limit, and a minute."""


def make_service(paths: Paths, runner: Runner) -> Service:
    """The service over the real store. Raises NotReady when the store is not up."""
    settings = config.load(paths)
    if not paths.state.is_mount():
        raise NotReady(
            f"{paths.state} is not mounted", why="the catalog lives on the store", hint="see `hatchery-store status`"
        )
    paths.run.mkdir(parents=True, exist_ok=True)
    machine = Machine(settings, runner)
    pools = open_pools(machine.dm, runner)
    managed = booted_with_systemd()
    units: Units = Systemd(runner) if managed else Direct(runner, paths)
    converter: Converter = SandboxedConverter(runner) if managed else PlainConverter(runner)
    refuse_lost_catalog(paths.catalog, pools)
    return Service(
        catalog=Catalog(paths.catalog),
        pools=pools,
        store=KernelStore(machine, partial(run_to_its_end, runner, MEND, timeout=MEND_SECONDS) if managed else None),
        units=units,
        converter=converter,
        runner=runner,
        paths=paths,
        settings=settings.require_store(),
        find_fast=lambda: find_fast(machine.dm, runner),
        open_url=fetch.confined(runner) if managed else open_url,
        unpack=unpacking.confined(runner) if managed else unpacking.plain(runner),
        nvme=UnitTarget(runner, paths.nvme) if managed else None,
    )


def refuse_lost_catalog(path: Path, pools: Mapping[PoolName, Pool]) -> None:
    """Do not begin an empty catalog over pools that hold volumes: nobody would know them, and they would be collected.

    Raises Unhealthy.
    """
    found = look(path)
    if found.condition is Condition.GOOD:
        return
    hint = "nothing was changed; run `hatchery-store restore`"
    if found.condition is Condition.DAMAGED:
        raise Unhealthy(f"the catalog {path} is damaged", why=found.why, hint=hint)
    held = sum(len(pool.thin_ids()) for pool in pools.values())
    if held:
        raise Unhealthy(f"the catalog {path} is missing", why=f"the pools hold {held} volumes", hint=hint)


def open_pools(dm: Dm, runner: Runner) -> dict[PoolName, Pool]:
    """The pools that are active. Raises NotReady when the durable one is not."""
    pools = {PoolName.DURABLE: Pool.open(dm, PoolName.DURABLE, runner)}
    fast = find_fast(dm, runner)
    if fast is not None:
        pools[PoolName.FAST] = fast
    return pools


def find_fast(dm: Dm, runner: Runner) -> Pool | None:
    """The fast pool, if there is one and it lives."""
    try:
        pool = Pool.open(dm, PoolName.FAST, runner)
    except NotReady:
        return None
    return None if pool.dead() else pool


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="hatcheryd", description="Hatchery's service.")
    parser.add_argument("--debug", action="store_true", help="log every command")
    arguments = parser.parse_args(argv)
    # The journal has time and unit.
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.INFO, handlers=[journal.handler()])
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    paths = Paths()
    try:
        service = make_service(paths, Runner())
        service.events.unasked = unasked
        service.start()
        # Loaded now, for they are slow to load: guests wait for their exports, which are there already.
        from appliance.api.app import make_app
        from appliance.api.server import READERS, Reader, Server, listen

        app = make_app(service)
        listener = listen(paths.api_socket)
        reader = Reader(app, listen(paths.read_socket, READERS))
    except HatcheryError as error:
        notify(f"STATUS={error}")
        raise SystemExit(f"hatcheryd: {error}") from error
    service.watch()
    try:
        with reader:
            Server(app, service).run(sockets=[listener])
    finally:
        service.close()


if __name__ == "__main__":
    main()
