"""Clones over NVMe/TCP: what the kernel's target is to offer, by what the catalog says, and whether it does.

Each clone is a subsystem of its own, which lets in the host of the clone's client and no other, by its key, and which
that client's port alone has. Its name comes from the store and from the clone's volume, so that a host that comes back
by itself finds the disk that it had, or none: never another one of the same name.
"""

import logging
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from appliance.catalog import Catalog, Clone, NvmeDoor
from appliance.errors import InUse, InvalidInput, NotReady, Unhealthy
from appliance.host import netlink, nvmet
from appliance.host.nvmet_request import Outcome, Target
from appliance.model import NO_LIMITS
from appliance.service.core import Core
from appliance.service.devices import device_of

log = logging.getLogger(__name__)

FIRST_PORT = 0x4800
"""Numbers of our ports in the target begin here, out of the way of those that people give."""

NQN_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
"""How names begin that need no domain (NVM Express Base 2.0, 4.5)."""


@dataclass(frozen=True, slots=True)
class Offered:
    """How a host connects to a clone."""

    nqn: str
    uuid: str
    door: NvmeDoor

    def words(self) -> tuple[str, ...]:
        """nvme-cli's words. The key is in a file there, and for root alone to read."""
        return (
            *("nvme", "connect", "--transport=tcp", f"--traddr={self.door.address}", f"--trsvcid={self.door.port}"),
            *(f"--nqn={self.nqn}", f"--hostnqn={self.door.host_nqn}"),
        )


def identity_of(store: uuid.UUID, thin_id: int) -> uuid.UUID:
    """What tells a volume of a store from all others: the clone's UUID as a disk."""
    return uuid.uuid5(store, f"volume {thin_id}")


def port_number(door: NvmeDoor) -> int:
    """The folder of a door's port in the target."""
    return FIRST_PORT + door.number


class Nvme:
    """What is offered over NVMe/TCP. The caller holds the service's lock to change it."""

    def __init__(self, core: Core, target: Target) -> None:
        self._core = core
        self._target = target

    @property
    def _catalog(self) -> Catalog:
        return self._core.catalog

    def check(self, clone: Clone, client: str) -> None:
        """Refuse what a client cannot have over NVMe/TCP. Raises NotReady without a door or a key, InvalidInput."""
        door = self._catalog.nvme_door(client)
        if door is None:
            raise NotReady(
                f"client {client} is not reached over NVMe/TCP",
                why="neither its host's NQN nor an address to listen on is known",
                hint=f"hatchery client nvme {client} --listen ADDRESS:PORT --host-nqn NQN",
            )
        if door.key is None:
            raise NotReady(
                f"client {client} has no key for NVMe/TCP",
                why="its host proves by it that it is the one that is let in",
                hint=f"hatchery client certificate {client} DIRECTORY --nvme",
            )
        if clone.limits != NO_LIMITS:
            raise InvalidInput(
                f"clone {clone.name} has limits",
                why="the kernel's NVMe target cannot hold it to them",
                hint=f"lift them, or attach it by NBD: hatchery clone limit {clone.name} --none",
            )

    def offered(self, clone: Clone) -> Offered | None:
        """How an attached clone is reached; None where it is not over NVMe/TCP."""
        door = self._catalog.nvme_door(str(clone.client)) if clone.by_nvme else None
        return None if door is None else self._offered(self._catalog.store_identity(), clone, door)

    def offer(self, clones: Iterable[Clone]) -> None:
        """Offer clones that the catalog attaches over NVMe/TCP. Raises NotReady, Unhealthy."""
        wanted = [each for each in map(self.offered, clones) if each is not None]
        outcome = self._apply()
        if outcome.missing:
            raise NotReady(
                "the kernel has no NVMe target",
                why=outcome.missing,
                hint="Debian's own kernel has one; attach the clone by NBD otherwise",
            )
        for each in wanted:
            for name in (each.nqn, f"port {port_number(each.door)}", f"host {each.door.host_nqn}"):
                if name in outcome.problems:
                    raise Unhealthy(
                        f"the kernel's NVMe target does not offer {each.nqn}",
                        why=f"{name}: {outcome.problems[name]}",
                        hint="is the address this machine's, and the port free? see `journalctl -u hatchery-nvme`",
                    )

    def withdraw(self, clone: Clone, *, cut_off: bool, gone: Collection[int] = ()) -> None:
        """Offer a clone no more. Raises InUse while somebody may be connected, unless they are to be cut off.

        ``gone`` are clones that were withdrawn before it, and that the catalog still has as attached.
        """
        offered = self.offered(clone)
        if offered is None:
            return
        gently = [] if cut_off else [offered.nqn]
        outcome = self._apply(without={clone.thin_id, *gone}, gently=gently)
        if offered.nqn in outcome.in_use:
            raise self._in_use(clone, offered, outcome.in_use[offered.nqn])
        if offered.nqn in outcome.problems:
            raise Unhealthy(f"clone {clone.name} is still offered over NVMe/TCP", why=outcome.problems[offered.nqn])

    def _in_use(self, clone: Clone, offered: Offered, peers: tuple[str, ...]) -> InUse:
        others = sum(each.client == clone.client for each in self._catalog.clones_by_nvme()) - 1
        why = f"client {clone.client} is connected over NVMe/TCP (from {', '.join(peers[:5])})"
        hint = f"`nvme disconnect --nqn={offered.nqn}` there first, or force it"
        if others:
            why += f", and the kernel does not tell to which of its {others + 1} clones"
            hint = f"`nvme disconnect --nqn={offered.nqn}` there first, and force it then"
        return InUse(f"clone {clone.name} is in use", why=why, hint=hint)

    def sync(self, *, strictly: bool = False) -> None:
        """Have the target offer exactly what the catalog says. Cheap where nobody uses it.

        What cannot be done is logged, or raised if ``strictly``. Raises NotReady, Unhealthy.
        """
        outcome = self._apply()
        found = {"the kernel has no NVMe target": outcome.missing} if outcome.missing else outcome.problems
        for name, words in found.items():
            if strictly:
                raise NotReady(f"NVMe/TCP: {name}", why=words, hint="see `journalctl -u hatchery-nvme`")
            log.error("NVMe/TCP: %s: %s", name, words)

    def serving(self, client: str) -> int:
        """How many of a client's clones the target offers. Raises Unhealthy."""
        names = self._names(client)
        return len(names & set(self._found(names)))

    def missing(self, client: str) -> tuple[str, ...]:
        """Clones of a client that the target does not offer as it should. Raises Unhealthy."""
        wanted = {each.nqn: each for each in self._wanted(()).subsystems}
        names = self._named(client)
        found = self._found(frozenset(names))
        bad = (nqn for nqn in names if nqn not in found or not found[nqn].is_as(wanted[nqn]))
        return tuple(sorted(names[nqn] for nqn in bad if nqn in wanted))

    def connections(self, client: str) -> tuple[netlink.Connection, ...]:
        """Who is connected to a client's port. Raises CannotTell."""
        door = self._catalog.nvme_door(client)
        return () if door is None or not self._names(client) else netlink.tcp_connections(door.port)

    def _found(self, names: Collection[str]) -> dict[str, nvmet.FoundSubsystem]:
        return dict(self._target.look().subsystems) if names else {}

    def _named(self, client: str) -> dict[str, str]:
        store = self._catalog.store_identity()
        mine = (each for each in self._clones(()) if each.client == client)
        return {f"{NQN_PREFIX}{identity_of(store, each.thin_id)}": each.name for each in mine}

    def _names(self, client: str) -> frozenset[str]:
        return frozenset(self._named(client))

    def _apply(self, without: Collection[int] = (), gently: Collection[str] = ()) -> Outcome:
        wanted = self._wanted(without)
        if not wanted.subsystems and not gently and not self._target.look().subsystems:
            return Outcome()
        return self._target.apply(wanted, gently)

    def _clones(self, without: Collection[int]) -> tuple[Clone, ...]:
        left_out = self._core.lost | frozenset(without)
        return tuple(clone for clone in self._catalog.clones_by_nvme() if clone.thin_id not in left_out)

    def _wanted(self, without: Collection[int]) -> nvmet.Wanted:
        doors = {door.client: door for door in self._catalog.nvme_doors() if door.key is not None}
        clones = [clone for clone in self._clones(without) if clone.client in doors]
        store = self._catalog.store_identity()
        used = {door.client: door for door in (doors[str(clone.client)] for clone in clones)}.values()
        return nvmet.Wanted(
            hosts=tuple(nvmet.Host(door.host_nqn, str(door.key)) for door in used),
            ports=tuple(nvmet.Port(port_number(door), door.address, door.port) for door in used),
            subsystems=tuple(self._subsystem(store, clone, doors[str(clone.client)]) for clone in clones),
        )

    def _subsystem(self, store: uuid.UUID, clone: Clone, door: NvmeDoor) -> nvmet.Subsystem:
        offered = self._offered(store, clone, door)
        return nvmet.Subsystem(
            nqn=offered.nqn,
            # Hosts show it as the disk's: twenty characters are all that there is room for.
            serial=offered.uuid.replace("-", "")[:20],
            uuid=offered.uuid,
            device=str(device_of(clone)),
            host=door.host_nqn,
            port=port_number(door),
        )

    @staticmethod
    def _offered(store: uuid.UUID, clone: Clone, door: NvmeDoor) -> Offered:
        made = str(identity_of(store, clone.thin_id))
        return Offered(f"{NQN_PREFIX}{made}", made, door)
