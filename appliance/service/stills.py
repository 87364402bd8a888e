"""Stills: disks as they were at one moment, offered read-only to who copies them out.

of a template   its sealed volume itself
of a clone      a snapshot of it, consistent as after a power cut; it is deleted with the still

The bytes do not come through this process. A storage daemon that serves no client offers them on a unix socket, so
that who reads a still takes nothing from the daemons of guests, and its end is the end of all stills. A snapshot stands
in the catalog's garbage from before it is made until it is deleted: however this process ends, the next one deletes it.
A still that nobody reads goes by itself, so that nothing is left of a reader who was killed.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.catalog import Clone
from appliance.config import Paths
from appliance.errors import HatcheryError, InUse, NotReady
from appliance.host import device_access, storage_daemon
from appliance.host.files import replace
from appliance.host.storage_daemon import Export, Files, Listen, ServerConfig, StorageDaemon
from appliance.host.units import Units
from appliance.model import Access, CloneKind, TemplateRef, TemplateState
from appliance.reconcile.volumes import Birth, Devices, Origin, Volume
from appliance.schema import StillList, StillView
from appliance.service import addresses
from appliance.service.clones import Clones
from appliance.service.core import Core
from appliance.service.wanted import origin_of

log = logging.getLogger(__name__)

DAEMON = "hatchery-stills"
"""The storage daemon's name, which no client may have."""

MOST = 8
"""Stills at a time: each may read as fast as the disks do."""

PATIENCE = 60.0
"""Seconds until a still that nobody reads goes by itself."""


@dataclass(frozen=True, slots=True)
class Still:
    """A still. ``thin_id`` is the volume that is read; ``since`` is of the monotonic clock."""

    view: StillView
    export: Export
    thin_id: int
    since: float


class Stills:
    """All stills of this process."""

    def __init__(self, core: Core, clones: Clones, units: Units, paths: Paths) -> None:
        self._core = core
        self._clones = clones
        self._units = units
        self._files = Files(paths.nbd(DAEMON))
        self._daemon = StorageDaemon(self._files, storage_daemon.aio_engine())
        self._stills: dict[str, Still] = {}
        self._count = 0
        self.clock: Callable[[], float] = time.monotonic

    def clear(self) -> None:
        """End what a former process left: before the catalog's garbage is deleted. Raises NotReady."""
        if not self._files.folder.exists():
            return  # it was not started since the machine was: guests wait while this asks the service manager
        self._units.stop(DAEMON)
        shutil.rmtree(self._files.folder, ignore_errors=True)

    def of_template(self, text: str) -> StillView:
        """Offer a template. Raises InvalidInput, NotFound, NotReady, InUse when there are too many stills."""
        ref = TemplateRef.parse(text)
        with self._core.lock:
            self._admit()
            template = self._core.catalog.template(ref)
            if template.state is not TemplateState.READY:
                raise NotReady(
                    f"template {template.ref} cannot be copied out",
                    why=f"it is {template.state}",
                    hint=f"wait until it is ready: `hatchery template show {template.ref}`",
                )
            device = self._core.pool.activate_template(template.thin_id, template.size, Access.READ_ONLY)
            made = self._new(f"template {template.ref}", template.size)
            held = self._core.pool.mapped_bytes(template.thin_id)
            export = Export(f"still-{made.id}", made.id, device, writable=False)
            return self._offer(made, export, template.thin_id, held)

    def of_clone(self, name: str) -> StillView:
        """Offer a clone as it is at this moment, whoever writes to it: a snapshot, while which its guest is held.

        Raises NotFound, NotReady, NoSpace, InUse while it is copied to a template or when there are too many stills.
        """
        with self._core.lock:
            self._admit()
            clone = self._clones.ready(name)
            self._core.admit_clones(clone.pool, 1, 0)
            why = f"the copying of clone {name} has ended"
            fresh = self._core.catalog.add_garbage(clone.pool, why, self._core.now())
            self._core.stills |= {fresh}
            try:
                self._snapshot(clone, fresh)
                return self._offer_snapshot(clone, fresh)
            except BaseException:
                self._core.stills -= {fresh}
                self._core.discard_quietly([fresh])
                raise

    def list(self) -> StillList:
        """All stills, the oldest first."""
        return StillList(stills=tuple(still.view for still in list(self._stills.values())))

    def end(self, identity: str) -> bool:
        """End a still, whoever reads it; false when there is none. Raises Unhealthy, CannotTell."""
        with self._core.lock:
            still = self._stills.get(identity)
            if still is not None:
                self._end(still, cut_off=True)
            return still is not None

    def sweep(self) -> None:
        """End the stills that nobody reads any more, or not yet after a while. Cheap when there are none."""
        for still in list(self._stills.values()):
            if self.clock() - still.since < PATIENCE:
                continue
            with self._core.lock:
                if still.view.id not in self._stills:
                    continue
                try:
                    self._end(still, cut_off=False)
                except InUse:
                    continue
                log.info("the still of %s went: nobody reads it", still.view.subject)

    def reads(self, thin_id: int) -> bool:
        """Whether somebody copies that volume out."""
        return thin_id in self._core.stills

    # --- inside

    def _admit(self) -> None:
        if len(self._stills) >= MOST:
            subjects = ", ".join(still.view.subject for still in self._stills.values())
            raise InUse(
                f"{MOST} disks are being copied out already", why=subjects, hint="wait until one of them is done"
            )

    def _snapshot(self, clone: Clone, fresh: int) -> None:
        owner, origin = f"a still of clone {clone.name}", Origin(clone.thin_id, clone.size)
        volume = Volume(fresh, clone.pool, owner, clone.size, Devices.NONE, Birth.MOMENT, origin)
        advanced = self._core.carry_out([volume])
        self._core.catalog.set_transaction_id(advanced[clone.pool], clone.pool)

    def _offer_snapshot(self, clone: Clone, fresh: int) -> StillView:
        durable, pool = self._core.pool, self._core.pool_of(clone.pool)
        if clone.kind is CloneKind.DURABLE and not clone.overlay:
            device = durable.activate_still(fresh, clone.size, None)
            held = durable.mapped_bytes(fresh)
        else:
            # What an ephemeral clone has not written is read from its template, and so it is with its snapshot.
            template = self._core.catalog.template_of_id(clone.template)
            below = origin_of(template)
            origin = durable.origin(below.thin_id, below.size, whole=below.whole)
            if clone.overlay:
                device = durable.activate_still(fresh, clone.size, origin)
            else:
                device = pool.activate_ephemeral(fresh, clone.size, origin)
            held = pool.mapped_bytes(fresh) + (durable.mapped_bytes(template.thin_id) if below.whole else template.size)
        made = self._new(f"clone {clone.name}", clone.size)
        export = Export(f"still-{made.id}", made.id, device, writable=False)
        return self._offer(made, export, fresh, min(held, clone.size))

    def _new(self, subject: str, size: int) -> StillView:
        self._count += 1
        now = self._core.now()
        # The time keeps ids of one process apart from those of the next.
        identity = f"{int(now):x}-{self._count}"
        uri = addresses.uri(Listen(path=self._files.socket), identity)
        return StillView(id=identity, subject=subject, size=size, data_bytes=0, uri=uri, created=now)

    def _offer(self, made: StillView, export: Export, thin_id: int, held: int) -> StillView:
        view = made.model_copy(update={"data_bytes": held})
        try:
            self._files.folder.mkdir(parents=True, exist_ok=True)
            # It begins without exports: a daemon that was killed must not wait for devices that went meanwhile.
            empty = ServerConfig(DAEMON, Listen(path=self._files.socket), ())
            replace(self._files.config, storage_daemon.render(empty), 0o644)
            device_access.let_in(export.device, self._units.user(DAEMON), Access.READ_ONLY)
            self._units.start(DAEMON)
            self._daemon.add([export])
        except BaseException:
            with contextlib.suppress(HatcheryError):
                self._daemon.cut_off(export)
            self._dismiss_if_idle()
            raise
        self._stills[view.id] = Still(view, export, thin_id, self.clock())
        self._core.stills |= {thin_id}
        log.info("%s is offered to be copied out", view.subject)
        return view

    def _end(self, still: Still, *, cut_off: bool) -> None:
        try:
            if cut_off:
                self._daemon.cut_off(still.export)
            else:
                self._daemon.remove(still.export)
        except NotReady:
            log.info("%s: the storage daemon is down", still.view.subject)
        # A template's device stays when its still goes.
        device_access.shut_out(still.export.device, self._units.user(DAEMON))
        del self._stills[still.view.id]
        self._core.stills = frozenset(each.thin_id for each in self._stills.values())
        self._dismiss_if_idle()
        # A snapshot, or a template that was removed meanwhile.
        self._core.discard_quietly([still.thin_id])

    def _dismiss_if_idle(self) -> None:
        if not self._stills:
            try:
                self.clear()
            except HatcheryError:
                log.exception("the storage daemon of stills goes on")
