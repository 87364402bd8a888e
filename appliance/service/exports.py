"""Exports: which clone is offered to which client, in the catalog, in ``server.json`` and in the running daemon.

``server.json`` is replaced before the daemon is told anything, so that a daemon that is killed at any moment comes
back with what the catalog says or is about to say.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from appliance import pki
from appliance.catalog import Client, Clone, Offer
from appliance.config import Paths
from appliance.errors import CannotTell, HatcheryError, InUse, NotReady, Unhealthy
from appliance.host import device_access, netlink, storage_daemon
from appliance.host.files import replace as write_file
from appliance.host.nvmet_request import Target
from appliance.host.storage_daemon import Export, Files, Listen, ServerConfig, StorageDaemon
from appliance.host.units import Units
from appliance.model import Access, CloneKind, Limits
from appliance.service import addresses
from appliance.service.core import Core
from appliance.service.credentials import Credentials
from appliance.service.devices import device
from appliance.service.nvme import Nvme
from appliance.service.offer_files import OfferFiles
from appliance.service.seed_files import SeedFiles

log = logging.getLogger(__name__)

GROUP = "hatchery"
"""Its members may use the API and the exports of the local client."""


_CLONE = "clone-"
"""How the nodes of clones' disks begin. Those of their seeds begin otherwise."""


def export_of(clone: Clone) -> Export:
    """The export of a clone. Thin ids are never used twice, so neither are the nodes' names."""
    return _export(clone.kind, clone.thin_id, clone.name, clone.limits)


@lru_cache(maxsize=8192)
def _export(kind: CloneKind, thin_id: int, name: str, limits: Limits) -> Export:
    return Export(node=f"{_CLONE}{thin_id}", name=name, device=device(kind, thin_id), limits=limits)


class _Told:
    """Exports, each told of before it is taken."""

    def __init__(self, exports: Sequence[Export], each: Callable[[], None]) -> None:
        self._exports = exports
        self._each = each

    def __iter__(self) -> Iterator[Export]:
        for export in self._exports:
            self._each()
            yield export


class Exports:
    """The storage daemons of all clients, and what is offered over NVMe/TCP. The caller holds the service's lock.

    ``before_offer`` and ``after_withdrawal`` are told of the clones; they do not raise HatcheryError.
    """

    def __init__(self, core: Core, units: Units, paths: Paths, target: Target) -> None:
        self._core = core
        self._catalog = core.catalog
        self._units = units
        self._paths = paths
        self._aio = storage_daemon.aio_engine()
        self.nvme = Nvme(core, target)
        self.credentials = Credentials(core.catalog, paths)
        self.seeds = SeedFiles(core.catalog, paths)
        self.offered = OfferFiles(core.catalog, paths)
        self.before_offer: Callable[[Collection[Clone]], None] = lambda _: None
        self.after_withdrawal: Callable[[Clone], None] = lambda _: None

    def listen(self, client: Client) -> Listen:
        """Where a client's daemon listens."""
        return addresses.listen(client, self._paths.nbd(client.name))

    def files(self, client: str) -> Files:
        """The run-time files of a client's daemon."""
        return Files(self._paths.nbd(client))

    def serve(self, client: Client) -> None:
        """Make a client's daemon run with exactly the exports that the catalog says. Raises NotReady, Unhealthy."""
        self._prepare(client)
        self._units.start(client.name)
        daemon = self._daemon(client.name)
        if client.tls:
            self._guard(client, daemon)
        daemon.sync(self._wanted(client.name))

    def restart(self, client: Client) -> None:
        """As ``serve``, after a change of where it listens. Its guests reconnect."""
        self._prepare(client)
        self._units.restart(client.name)

    def dismiss(self, client: str) -> None:
        """Stop a client's daemon and remove its run-time files."""
        self._units.stop(client)
        shutil.rmtree(self._paths.nbd(client), ignore_errors=True)
        shutil.rmtree(self._paths.seeds(client), ignore_errors=True)
        self.credentials.remove(client)

    def admit(self, client: Client) -> None:
        """Let in the certificates that the catalog says, from the next handshake on. Open connections stay.

        Raises Unhealthy.
        """
        self._write(client)
        if client.tls:
            with contextlib.suppress(NotReady):  # a daemon that is down reads it when it comes up
                self._daemon(client.name).allow(self._allowed(client))

    def expel(self, client: Client) -> None:
        """As ``admit``, and cut off all who are connected: who is still allowed connects anew. Raises NotReady."""
        try:
            self.admit(client)
        finally:
            self._units.restart(client.name)
        self._catalog.record_cut(client.name)

    def _guard(self, client: Client, daemon: StorageDaemon) -> None:
        """See that a daemon that may have been running all the time lets in those who may, and has no others."""
        try:
            daemon.allow(self._allowed(client))
        except Unhealthy as error:
            log.warning("client %s: starting its storage daemon anew: %s", client.name, error)
            self._units.restart(client.name)
        if self._catalog.owes_cut(client.name):
            self.expel(client)

    def offer(self, client: str, clones: Iterable[Clone], each: Callable[[], None] = lambda: None) -> None:
        """Export active clones that the catalog attaches to ``client``. Raises NotReady, Unhealthy.

        ``each`` is called before each export, and may raise to end it there.
        """
        clones = tuple(clones)
        self.before_offer(clones)
        self.let_in(clones)
        self._add(client, _Told([export for clone in clones for export in self._all_of(client, clone)], each))
        if by_nvme := [clone for clone in clones if clone.by_nvme]:
            self.nvme.offer(by_nvme)

    def share(self, client: str, clone: Clone) -> None:
        """Export a clone, which is exported to its first client, to its second one too. Raises NotReady, Unhealthy."""
        self.let_in([clone])
        self._add(client, self._all_of(client, clone))

    def let_in(self, clones: Iterable[Clone]) -> None:
        """Let the daemons of those who have clones open their devices, and no other daemon. Raises Unhealthy."""
        for clone in clones:
            daemons = () if clone.by_nvme else clone.clients
            users = {self._units.user(client): Access.READ_WRITE for client in daemons}
            device_access.grant(export_of(clone).device, users)

    def offer_template(self, offer: Offer) -> None:
        """Export a template, and its boot set, to be read. Raises NotReady, Unhealthy."""
        self._let_at_templates(offer.client)
        self._add(offer.client, self.offered.of(offer))

    def _let_at_templates(self, client: str) -> None:
        for offer in self._catalog.offers_to(client):
            disk, *_ = self.offered.of(offer)
            device_access.let_in(disk.device, self._units.user(client), Access.READ_ONLY)

    def withdraw_template(self, offer: Offer, *, cut_off: bool) -> None:
        """Stop exporting a template. Raises InUse while somebody reads it, unless they are to be cut off."""
        daemon, owner = self._daemon(offer.client), self._catalog.client(offer.client)
        self._write(owner, unoffered=offer.number)
        disk, *more = self.offered.of(offer)
        try:
            if cut_off:
                daemon.cut_off(disk)
            else:
                daemon.remove(disk)
            for each in more:
                daemon.cut_off(each)
            device_access.shut_out(disk.device, self._units.user(offer.client))
        except InUse as error:
            self._write(owner)
            raise self._in_use(f"template {offer.ref}", owner) from error
        except NotReady:
            log.info("%s: the storage daemon of client %s is down", offer.ref, offer.client)
        except HatcheryError:
            self._write(owner)
            raise

    def offer_seed(self, client: str, clone: Clone) -> None:
        """Export the seed of a clone that is exported already; fine when it has none. Raises NotReady, Unhealthy."""
        seed = self.seeds.export(client, clone)
        self._add(client, [] if seed is None else [seed])

    def _add(self, client: str, exports: Iterable[Export]) -> None:
        self._write(self._catalog.client(client))
        daemon = self._daemon(client)
        try:
            daemon.add(exports)
        except (NotReady, CannotTell):
            # It is down or just ended: started again it reads the file, and what it has already is not added twice.
            self._units.start(client)
            daemon.add(exports)

    def withdraw(self, client: str, clone: Clone, *, cut_off: bool, gone: Collection[int] = ()) -> None:
        """Stop exporting a clone. Raises InUse while somebody is connected to it, unless they are to be cut off.

        ``gone`` are clones that were withdrawn before it, and that the catalog still gives to a client.
        """
        owner = self._catalog.client(client)
        if clone.by_nvme:
            self.nvme.withdraw(clone, cut_off=cut_off, gone=gone)
        self._write(owner, without={clone.thin_id, *gone})
        daemon, seed = self._daemon(client), self.seeds.export(client, clone)
        try:
            if cut_off or clone.by_nvme:
                daemon.cut_off(export_of(clone))
            else:
                daemon.remove(export_of(clone))
            if seed is not None:
                daemon.cut_off(seed)  # its guest has not even its disk
        except InUse as error:
            self._write(owner)
            raise self._in_use(f"clone {clone.name}", owner) from error
        except NotReady:
            log.info("%s: the storage daemon of client %s is down", clone.name, client)
        except HatcheryError:
            self._write(owner)
            raise
        self.after_withdrawal(clone)

    def withdraw_seed(self, client: str, clone: Clone, *, cut_off: bool) -> None:
        """Stop exporting a clone's seed; fine when it has none.

        Raises InUse while somebody is connected to it, unless they are to be cut off.
        """
        seed = self.seeds.export(client, clone)
        if seed is None:
            return
        owner = self._catalog.client(client)
        self._write(owner, unseeded=clone.thin_id)
        try:
            if cut_off:
                self._daemon(client).cut_off(seed)
            else:
                self._daemon(client).remove(seed)
        except InUse as error:
            self._write(owner)
            raise self._in_use(f"the seed of clone {clone.name}", owner) from error
        except NotReady:
            log.info("%s: the storage daemon of client %s is down", seed.name, client)
        except HatcheryError:
            self._write(owner)
            raise

    def _in_use(self, what: str, owner: Client) -> InUse:
        return InUse(
            f"{what} is in use",
            why=f"client {owner.name} is connected to it{self._who(owner)}",
            hint="shut its guest down first, or force it",
        )

    def see_off(self, client: str, clones: Iterable[Clone]) -> None:
        """See that a client's daemon has none of the clones that were withdrawn from it.

        One that was down then may have been coming up, with what its file said before. Raises Unhealthy, CannotTell.
        """
        daemon = self._daemon(client)
        with contextlib.suppress(NotReady):  # one that does not come up now reads the file anew when it does
            self._units.start(client)
            for clone in clones:
                for export in self._all_of(client, clone):
                    daemon.cut_off(export)

    def limit(self, client: str, clone: Clone) -> None:
        """Hold a clone to the limits that the catalog says, from now on. Raises Unhealthy, DeadlineExceeded."""
        self._write(self._catalog.client(client))
        with contextlib.suppress(NotReady, CannotTell):  # a daemon that is down or just ended reads the file
            self._daemon(client).limit(export_of(clone))

    def serving(self, client: str) -> int:
        """How many clones are offered to the client now. Raises NotReady when its daemon does not run, Unhealthy."""
        return sum(node.startswith(_CLONE) for node in self._daemon(client).exports()) + self.nvme.serving(client)

    def differences(self, client: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Clones that a client's daemon lacks, and what it exports although it is not the client's.

        Raises NotReady when it does not run, CannotTell.
        """
        wanted = {export.node: export.name for export in self._wanted(client)}
        offered = self._daemon(client).exports()
        missing = [name for node, name in wanted.items() if node not in offered]
        return tuple(sorted([*missing, *self.nvme.missing(client)])), tuple(sorted(offered - set(wanted)))

    def describe(self, client: str) -> str:
        """The state of a client's daemon in the service manager's words."""
        return self._units.describe(client)

    def connections(self, client: Client) -> tuple[netlink.Connection, ...]:
        """Who is connected to a client's daemon. Raises CannotTell."""
        where = self.listen(client)
        if where.path is not None:
            return netlink.unix_connections(where.path)
        return netlink.tcp_connections(where.port or 0)

    def _who(self, client: Client) -> str:
        try:
            found = self.connections(client)
        except CannotTell:
            return ""
        return f" (from {', '.join(connection.peer for connection in found[:5])})" if found else ""

    def _daemon(self, client: str) -> StorageDaemon:
        return StorageDaemon(self.files(client), self._aio)

    def _all_of(self, client: str, clone: Clone) -> tuple[Export, ...]:
        """What a client's daemon exports of a clone: of one over NVMe/TCP, whose disk the kernel offers, the seed."""
        disk = () if clone.by_nvme else (export_of(clone),)
        seed = self.seeds.export(client, clone)
        return disk if seed is None else (*disk, seed)

    def _clones(self, client: str, without: Collection[int] = ()) -> tuple[Clone, ...]:
        left_out = self._core.lost | frozenset(without)
        return tuple(clone for clone in self._catalog.clones_of_client(client) if clone.thin_id not in left_out)

    def _wanted(self, client: str) -> tuple[Export, ...]:
        clones = (export for clone in self._clones(client) for export in self._all_of(client, clone))
        return (*clones, *self.offered.exports(client))

    def _prepare(self, client: Client) -> None:
        if client.tls:
            self.credentials.prepare(client)
        else:
            self.credentials.remove(client.name)
        self._write(client)
        self.let_in(self._clones(client.name))
        self._let_at_templates(client.name)

    def _allowed(self, client: Client) -> tuple[str, ...]:
        """Distinguished names of the certificates that let in."""
        found = self._catalog.certificates(client.name)
        names = (each.name or pki.distinguished_name(client.name, each.serial) for each in found if not each.revoked)
        return tuple(dict.fromkeys(names))

    def _write(
        self,
        client: Client,
        without: Collection[int] = (),
        unseeded: int | None = None,
        unoffered: int | None = None,
    ) -> None:
        """Write down what a client's daemon serves: all that the catalog says ``without`` some clones, one of them
        without its seed, and without one offer."""
        files = self.files(client.name)
        # Its owner and its mode are its unit's to set, which may.
        files.folder.mkdir(parents=True, exist_ok=True)
        allowed = self._allowed(client) if client.tls else ()
        clones = self._clones(client.name, without)
        clones = tuple(replace(clone, seed=None) if clone.thin_id == unseeded else clone for clone in clones)
        exports = tuple(export for clone in clones for export in self._all_of(client.name, clone))
        seeds = [clone.seed for clone in clones if clone.seed is not None]
        self.seeds.make(client.name, seeds)
        boot_sets = self.offered.make(client.name, unoffered)
        exports += self.offered.exports(client.name, unoffered)
        config = ServerConfig(client.name, self.listen(client), exports, allowed, client.max_connections)
        write_file(files.config, storage_daemon.render(config), 0o644)
        self.seeds.keep(client.name, seeds, boot_sets)
