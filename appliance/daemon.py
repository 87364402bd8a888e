"""``hatcheryd``: brings the service up in order and serves its API on a unix socket.

Order: catalog opened and migrated, catalog and pool brought to agree, attached clones activated and exported, socket
listening, ``READY=1``. When it ends, exports go on.
"""

import argparse
import logging
from collections.abc import Sequence

from appliance import config
from appliance.api.app import make_app
from appliance.api.server import Server, listen
from appliance.catalog import Catalog
from appliance.config import Paths
from appliance.errors import HatcheryError, NotReady
from appliance.host.dm import Dm
from appliance.host.notify import notify
from appliance.host.units import Direct, Systemd, Units, booted_with_systemd
from appliance.images.convert import Converter, PlainConverter, SandboxedConverter
from appliance.model import PoolName
from appliance.run import Runner
from appliance.service.kernel import KernelStore
from appliance.service.service import Service
from appliance.store.machine import Machine
from appliance.store.pool import Pool

log = logging.getLogger(__name__)


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
    units: Units = Systemd(runner) if booted_with_systemd() else Direct(runner, paths)
    converter: Converter = SandboxedConverter(runner) if booted_with_systemd() else PlainConverter(runner)
    return Service(
        catalog=Catalog(paths.catalog),
        pools=pools,
        store=KernelStore(machine),
        units=units,
        converter=converter,
        runner=runner,
        paths=paths,
    )


def open_pools(dm: Dm, runner: Runner) -> dict[PoolName, Pool]:
    """The pools that are active. Raises NotReady when the durable one is not."""
    pools = {PoolName.DURABLE: Pool.open(dm, PoolName.DURABLE, runner)}
    try:
        pools[PoolName.FAST] = Pool.open(dm, PoolName.FAST, runner)
    except NotReady as error:
        log.info("no ephemeral clones: %s", error)
    return pools


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="hatcheryd", description="Hatchery's service.")
    parser.add_argument("--debug", action="store_true", help="log every command")
    arguments = parser.parse_args(argv)
    # The journal has time and unit; levels go before each line as it reads them (sd-daemon(3)).
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.INFO, format="%(levelname)s %(message)s")
    for noisy in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    paths = Paths()
    try:
        service = make_service(paths, Runner())
        service.start()
        app = make_app(service)
        listener = listen(paths.api_socket)
    except HatcheryError as error:
        notify(f"STATUS={error}")
        raise SystemExit(f"hatcheryd: {error}") from error
    try:
        Server(app, service).run(sockets=[listener])
    finally:
        service.close()


if __name__ == "__main__":
    main()
