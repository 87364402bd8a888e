"""Clones: made of a ready template, exported to a client, removed without a trace."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from appliance.catalog import Clone, NewClone, NewSeed
from appliance.errors import HatcheryError, InUse, NotReady
from appliance.model import NO_LIMITS, CloneKind, CloneState, Limits, Protocol, TemplateRef, check_name
from appliance.reconcile.volumes import Devices, FoundDevice, Volume
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.operations import Job
from appliance.service.wanted import of_clone

log = logging.getLogger(__name__)


def names_of(name: str, count: int | None) -> tuple[str, ...]:
    """NAME, or NAME-1 to NAME-COUNT. Raises InvalidInput when one of them is no valid name."""
    if count is None:
        return (check_name(name, "clone name"),)
    return tuple(check_name(f"{name}-{number}", "clone name") for number in range(1, count + 1))


class _HowFar:
    """How far the making of clones is, in clones; raises Cancelled when they are not wanted any more.

    None of them is whole before all are, so it is the share of the work that is done, of which making and exporting
    them are taken for one half each.
    """

    def __init__(self, job: Job | None, clones: int, *, exported: bool) -> None:
        self._job = job
        self._clones = clones
        self._parts = 2 if exported else 1
        self._offered = 0

    def stepped(self, done: int, whole: int) -> None:
        """So many of all steps of the pools are done."""
        self._tell("making them, all or none", self._clones * done / whole / self._parts)

    def offered(self) -> None:
        """One more is about to be exported."""
        self._tell("exporting them", (self._clones + min(self._offered, self._clones)) / self._parts)
        self._offered += 1

    def ended(self) -> None:
        """All are there: from now on they stay."""
        self._tell("exporting them", self._clones)
        if self._job is not None:
            self._job.settle()

    def _tell(self, words: str, done: float) -> None:
        if self._job is not None:
            self._job.check()
            self._job.at(words, int(done), self._clones, "clones")


class Clones:
    """The verbs on clones that every clone sees; ``clone_life`` has the others."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports
        self._busy: dict[int, str] = {}

    def create(
        self,
        name: str,
        template: str,
        count: int | None,
        client: str | None,
        *,
        kind: CloneKind = CloneKind.DURABLE,
        lease: float | None = None,
        limits: Limits = NO_LIMITS,
        learn: bool = True,
        seed: Callable[[str, int | None], NewSeed] | None = None,
        job: Job | None = None,
    ) -> tuple[Clone, ...]:
        """Make a clone, or ``count`` of them, exported to ``client``: all or none; for ``lease`` seconds.

        Each is held to ``limits``, for itself. Their boots are not learned from unless ``learn``. ``seed`` makes the
        seed of each, by its name and its number. A ``job`` hears how far it is, and can be cancelled.

        Raises InvalidInput, NotFound, NotReady, AlreadyExists, NoSpace, Cancelled.
        """
        wanted = names_of(name, count)
        ref = TemplateRef.parse(template)
        numbers = [None] if count is None else list(range(1, count + 1))
        seeds = {each: seed and seed(each, number) for each, number in zip(wanted, numbers, strict=True)}
        with self._core.lock:
            catalog = self._core.catalog
            self._core.admit_clones(kind.pool, len(wanted), len(wanted) * catalog.template(ref).size)
            now = self._core.now()
            expires = None if lease is None else now + lease
            new = [NewClone(each, client, now, kind, expires, limits, given) for each, given in seeds.items()]
            far = _HowFar(job, len(wanted), exported=client is not None)
            far.stepped(0, 1)
            clones = catalog.add_clones(ref, new)
            if not learn:
                self._core.untaught |= {clone.thin_id for clone in clones}
            try:
                origin = catalog.template_of_id(clones[0].template)
                advanced = self._core.carry_out([of_clone(clone, origin) for clone in clones], stepped=far.stepped)
                catalog.finish_clones([clone.thin_id for clone in clones], advanced[kind.pool], kind.pool)
                if client is not None:
                    self._exports.offer(client, clones, far.offered)
                far.ended()
            except BaseException:
                log.warning("clones %s were not made, taking back what was", ", ".join(wanted))
                self._take_back(clones)
                raise
        made = {"clone": tuple(wanted), "template": clones[0].template_ref}
        words = "made %d %s clone(s) of %s: %s"
        log.info(words, len(clones), kind, clones[0].template_ref, ", ".join(wanted), extra={"about": made})
        for clone in clones:
            words = f"{kind}, of {clone.template_ref}" + (f", for client {client}" if client else "")
            self._core.events.tell("clone", clone.name, "ready", words)
        return tuple(replace(clone, state=CloneState.READY) for clone in clones)

    def _take_back(self, clones: Sequence[Clone]) -> None:
        try:
            self._core.catalog.remove_clones(clones, "was not finished", self._core.now())
            for clone in clones:
                if clone.client is not None:
                    self._exports.withdraw(clone.client, clone, cut_off=True)
        except HatcheryError:
            log.exception("what is left of the clones could not be removed")
        self._core.discard_quietly([clone.thin_id for clone in clones])

    def remove(self, name: str, *, force: bool, why: str = "was removed") -> bool:
        """Remove a clone and free its space; false when there was none of that name. ``why`` is for the log.

        Raises InUse while its client is connected to it, unless forced, and while it is copied.
        """
        with self._core.lock:
            clone = self._core.catalog.find_clone(name)
            if clone is None:
                return False
            self._check_idle(clone)
            if clone.shared is not None and not force:
                self.ready(name)  # which says why not
            for client in clone.clients:
                self._exports.withdraw(client, clone, cut_off=force)
            templates = self._core.catalog.remove_clones([clone], why, self._core.now())
            self._core.lost -= {clone.thin_id}
            self._core.untaught.discard(clone.thin_id)
            self._core.discard_quietly([clone.thin_id, *templates])
        log.info("clone %s %s", name, why, extra={"about": {"clone": name, "template": clone.template_ref}})
        self._core.events.tell("clone", name, "removed", why)
        if templates:
            self._core.events.tell("template", clone.template_ref, "removed", "it went with its last clone")
        return True

    def attach(self, name: str, client: str, protocol: Protocol = Protocol.NBD) -> Clone:
        """Export a clone to a client; fine when it is already.

        Raises NotFound, InUse when another client has it, or this one by another protocol; as ``Nvme.check``.
        """
        with self._core.lock:
            clone = self.ready(name)
            self._core.catalog.client(client)
            if clone.client not in (None, client):
                raise InUse(
                    f"clone {name} is attached to client {clone.client}",
                    why="a clone is exported to one client at a time",
                    hint=f"move it: hatchery clone move {name} --client {client}; or, while its guest migrates, share"
                    f" it: hatchery clone attach {name} --client {client} --shared",
                )
            if clone.client is not None and clone.protocol is not protocol:
                raise InUse(
                    f"clone {name} is attached to client {clone.client} by {clone.protocol}",
                    why="a clone is exported by one protocol at a time",
                    hint=f"detach it first: hatchery clone detach {name}",
                )
            if protocol is Protocol.NVME_TCP:
                self._exports.nvme.check(clone, client)
            if clone.client is None:
                self._core.catalog.set_clone_client(clone.thin_id, client, protocol)
                clone = self._core.catalog.clone(name)
                try:
                    self.bring_up(clone)
                except BaseException:
                    self._withdraw_quietly(client, clone)
                    raise
                self._core.events.tell("clone", name, "attached", f"to client {client}, by {protocol}")
            return clone

    def detach(self, name: str, *, force: bool) -> Clone:
        """Stop exporting a clone; fine when it is not. Raises NotFound, InUse while its client is connected."""
        with self._core.lock:
            clone = self.ready(name)
            if clone.client is not None:
                self.take_down(clone, cut_off=force)
                self._core.catalog.set_clone_client(clone.thin_id, None)
                self._core.events.tell("clone", name, "detached", f"from client {clone.client}")
            return self._core.catalog.clone(name)

    # What the other verbs on clones share

    def ready(self, name: str, *, shared: bool = False) -> Clone:
        """A clone that can be used, by one client alone unless ``shared``. Raises NotFound, NotReady, InUse."""
        clone = self._core.catalog.clone(name)
        if clone.state is not CloneState.READY:
            raise NotReady(
                f"clone {name} cannot be used",
                why=f"it is {clone.state}",
                hint=f"wait until it is ready: `hatchery clone show {name}`",
            )
        if clone.thin_id in self._core.lost:
            raise NotReady(
                f"clone {name} is lost", why="its NVMe drive is gone", hint=f"hatchery clone reset {name}, or remove it"
            )
        self._check_idle(clone)
        if clone.shared is not None and not shared:
            raise InUse(
                f"clone {name} is in use",
                why=f"clients {' and '.join(clone.clients)} share it, for its guest migrates",
                hint=f"give it to one of them first: hatchery clone move {name} --client CLIENT",
            )
        return clone

    def hold(self, clone: Clone, words: str) -> None:
        """Let nobody change a clone until it is released; ``words`` say what is done to it. Raises InUse."""
        self._check_idle(clone)
        self._busy[clone.thin_id] = words

    def release(self, clone: Clone) -> None:
        """What it was held for is done."""
        self._busy.pop(clone.thin_id, None)

    def bring_up(self, clone: Clone) -> None:
        """Make the devices of an attached clone and export it."""
        if clone.client is not None:
            self._core.carry_out([self.volume(clone)])
            self._exports.offer(clone.client, [clone])

    def take_down(self, clone: Clone, *, cut_off: bool) -> None:
        """Stop exporting a clone and take its devices away. Raises InUse while its client is connected."""
        if clone.client is not None:
            self._exports.withdraw(clone.client, clone, cut_off=cut_off)
            self.deactivate(clone)

    def deactivate(self, clone: Clone) -> None:
        """Take away the devices of a clone that is not exported. Raises InUse."""
        there = {clone.thin_id: FoundDevice(Devices.EXPORTED, clone.size)}
        self._core.carry_out([self.volume(replace(clone, client=None))], devices=there)

    def volume(self, clone: Clone) -> Volume:
        """The volume that a clone should have."""
        return of_clone(clone, self._core.catalog.template_of_id(clone.template))

    def _check_idle(self, clone: Clone) -> None:
        words = self._busy.get(clone.thin_id)
        if words is not None:
            raise InUse(f"clone {clone.name} is in use", why=words, hint="wait until that is done")

    def _withdraw_quietly(self, client: str, clone: Clone) -> None:
        try:
            self.take_down(clone, cut_off=True)
            self._core.catalog.set_clone_client(clone.thin_id, None)
        except HatcheryError:
            log.exception("clone %s stays attached to %s until the next start", clone.name, client)
