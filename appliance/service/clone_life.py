"""What becomes of clones: back to their template, larger, kept longer, or templates themselves."""

import logging
from dataclasses import replace

from appliance.catalog import Clone, NewTemplate
from appliance.catalog.clones import overlay
from appliance.errors import HatcheryError, InvalidInput
from appliance.images.sources import DeviceSource
from appliance.model import (
    SECTOR,
    CloneKind,
    CloneState,
    ImageFormat,
    Limits,
    PoolName,
    TemplateRef,
    check_name,
)
from appliance.reconcile.volumes import Birth, Origin, activate
from appliance.service import admission, bootsets
from appliance.service.clones import Clones
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.imports import Imports
from appliance.service.operations import Job, Operations
from appliance.service.wanted import of_clone, of_template

log = logging.getLogger(__name__)


class CloneLife:
    """The verbs on clones that exist."""

    def __init__(self, core: Core, clones: Clones, exports: Exports, imports: Imports, operations: Operations) -> None:
        self._core = core
        self._clones = clones
        self._exports = exports
        self._imports = imports
        self._operations = operations

    def renew(self, name: str, lease: float | None) -> Clone:
        """Let a clone's lease end in ``lease`` seconds, or never. Raises NotFound, NotReady."""
        with self._core.lock:
            clone = self._core.catalog.clone(name)
            expires = None if lease is None else self._core.now() + lease
            self._core.catalog.set_clone_expiry(clone.thin_id, expires)
            self._core.events.tell("clone", name, "renewed", "for ever" if lease is None else f"for {lease:.0f} s")
            return self._core.catalog.clone(name)

    def limit(self, name: str, limits: Limits) -> Clone:
        """Hold a clone to ``limits`` from now on, whoever uses it. Raises NotFound, NotReady, InvalidInput over
        NVMe/TCP, InUse, Unhealthy.
        """
        with self._core.lock:
            old = self._clones.ready(name)
            if limits == old.limits:
                return old
            if old.by_nvme:
                raise InvalidInput(
                    f"clone {name} can have no limits",
                    why="it is attached over NVMe/TCP, and the kernel's target cannot hold it to them",
                    hint="detach it, and attach it by NBD",
                )
            catalog = self._core.catalog
            catalog.set_clone_limits(old.thin_id, limits)
            new = catalog.clone(name)
            if new.client is not None:
                try:
                    self._exports.limit(new.client, new)
                except BaseException:
                    catalog.set_clone_limits(old.thin_id, old.limits)
                    self._limit_quietly(new.client, old)
                    raise
        log.info("clone %s may do %s in a second", name, limits)
        return new

    def end_leases(self) -> tuple[str, ...]:
        """Remove the clones whose lease has ended, connected or not; the names of those that are gone."""
        ended = []
        for clone in self._core.catalog.expired_clones(self._core.now()):
            with self._core.lock:
                # It may have been renewed or reset since it was looked at.
                again = self._core.catalog.find_clone(clone.name)
                if again is None or again.expires != clone.expires:
                    continue
                try:
                    self._clones.remove(clone.name, force=True, why="had a lease that ended")
                except HatcheryError:
                    log.exception("clone %s outlives its lease for now", clone.name)
                else:
                    ended.append(clone.name)
        return tuple(ended)

    def reset(self, name: str, *, force: bool) -> Clone:
        """Give a clone its template's content and size again; what was written to it is gone, its lease stays.

        It gets a new volume, and the old one is deleted. A clone that is lost lives again. Raises NotFound, NotReady,
        NoSpace, InUse while its client is connected, unless forced.
        """
        with self._core.lock:
            catalog = self._core.catalog
            old = catalog.clone(name)
            if old.thin_id not in self._core.lost:
                old = self._clones.ready(name)
            template = catalog.template_of_id(old.template)
            self._core.admit_clones(old.pool, 1, max(0, template.size - old.size))
            lost = old.thin_id in self._core.lost
            if not lost:
                self._clones.take_down(old, cut_off=force)
            fresh = catalog.add_garbage(old.pool, f"the reset of clone {name} was not finished", self._core.now())
            new = replace(
                old,
                thin_id=fresh,
                size=template.size,
                state=CloneState.CREATING,
                client=None,
                overlay=overlay(template, old.kind),
            )
            try:
                advanced = self._core.carry_out([of_clone(new, template)])
                reset = catalog.replace_volume(old, new, "was reset", self._core.now(), advanced[old.pool])
            except BaseException:
                self._core.discard_quietly([fresh])
                if not lost:
                    self._bring_up_quietly(old)
                raise
            self._core.lost -= {old.thin_id}
            self._core.discard_quietly([old.thin_id])
            self._clones.bring_up(reset)
        log.info("clone %s is as %s again", name, template.ref)
        self._core.events.tell("clone", name, "reset", f"to {template.ref}")
        return reset

    def resize(self, name: str, size: int) -> Clone:
        """Make a clone larger; fine when it has that size. Its guest sees it when it boots next.

        Raises NotFound, NotReady, InvalidInput for a size that is smaller or odd, NoSpace, InUse while its client is
        connected.
        """
        with self._core.lock:
            old = self._clones.ready(name)
            check_growth(old, size)
            if size == old.size:
                return old
            self._core.admit_clones(old.pool, 0, size - old.size)
            self._clones.take_down(old, cut_off=False)
            self._core.catalog.set_clone_size(old.thin_id, size)
            grown = self._core.catalog.clone(name)
            try:
                self._clones.bring_up(grown)
            except BaseException:
                self._core.catalog.set_clone_size(old.thin_id, old.size)
                self._bring_up_quietly(old)
                raise
        log.info("clone %s has %d bytes now", name, size)
        self._core.events.tell("clone", name, "resized", f"to {size} bytes")
        return grown

    def promote(self, name: str, template: str | None) -> Job:
        """Make a clone's content a new template version: of the name ``template``, or of the clone's own template.

        A durable clone becomes one at once; an ephemeral one, and one that was made while its template was fetched, is
        copied, and cannot be used until that is done. The clone goes on as it was. Raises NotFound, NotReady,
        InvalidInput, AlreadyExists, NoSpace, InUse while its client is connected: what it has not written yet would be
        missing (rule 11).
        """
        with self._core.lock:
            clone = self._clones.ready(name)
            target = TemplateRef.parse(clone.template_ref).name if template is None else template
            check_name(target, "template name")
            numbers = self._core.pool.status()
            admission.admit_data(numbers, numbers.block_bytes)
            self._clones.take_down(clone, cut_off=False)
            try:
                wanted = NewTemplate(target, ImageFormat.RAW, f"clone {name}", self._core.now())
                if clone.kind is CloneKind.EPHEMERAL or clone.overlay:
                    return self._copy(clone, wanted)
                job = self._snapshot(clone, wanted)
            except BaseException:
                self._bring_up_quietly(clone)
                raise
            self._clones.bring_up(clone)
            return job

    def _snapshot(self, clone: Clone, wanted: NewTemplate) -> Job:
        made = self._core.catalog.add_template(wanted)
        try:
            sealed = replace(of_template(made), size=clone.size, birth=Birth.SNAPSHOT)
            advanced = self._core.carry_out([replace(sealed, origin=Origin(clone.thin_id, clone.size))])
            catalog, now = self._core.catalog, self._core.now()
            boot_set = bootsets.first(catalog, made, clone.size, None, None, now)
            catalog.finish_template(made.thin_id, clone.size, None, advanced[PoolName.DURABLE], boot_set)
        except BaseException:
            why = f"template {made.ref} was not finished"
            self._core.catalog.remove_template(made.thin_id, why, self._core.now())
            self._core.discard_quietly([made.thin_id])
            raise
        log.info("clone %s became template %s", clone.name, made.ref)
        self._core.template_ready(made.thin_id)
        job = self._operations.begin("promote", made.ref, "done")
        job.succeed()
        return job

    def _copy(self, clone: Clone, wanted: NewTemplate) -> Job:
        """Copy a clone whose blocks are in two volumes, in the background."""
        device = activate(self._clones.volume(clone), self._core)
        made = self._core.catalog.add_template(wanted)
        self._clones.hold(clone, f"it is being copied to template {made.ref}")
        source = DeviceSource(device, clone.size)

        def work(job: Job) -> None:
            try:
                self._imports.copy(job, made, source, clone.size)
            finally:
                with self._core.lock:
                    self._clones.release(clone)
                    self._settle(clone)
            job.succeed()

        job = self._operations.begin("promote", made.ref, f"copying clone {clone.name}")
        job.cancellable(source.close)
        self._operations.run(job, work)
        return job

    def _settle(self, clone: Clone) -> None:
        """Bring a clone back to how it was before it was copied."""
        try:
            self._clones.deactivate(clone)
            self._clones.bring_up(clone)
        except HatcheryError:
            log.exception("clone %s is not exported until the next start", clone.name)

    def _limit_quietly(self, client: str, clone: Clone) -> None:
        try:
            self._exports.limit(client, clone)
        except HatcheryError:
            log.exception("clone %s may have other limits until the next start", clone.name)

    def _bring_up_quietly(self, clone: Clone) -> None:
        try:
            self._clones.bring_up(clone)
        except HatcheryError:
            log.exception("clone %s is not exported until the next start", clone.name)


def check_growth(clone: Clone, size: int) -> None:
    """Refuse a size that a clone cannot get. Raises InvalidInput."""
    if size % SECTOR:
        raise InvalidInput(f"{size} is not the size of a disk", why=f"it must be a multiple of {SECTOR} bytes")
    if size < clone.size:
        raise InvalidInput(
            f"clone {clone.name} cannot be made smaller",
            why=f"it has {clone.size} bytes, and what is beyond {size} may be in use",
            hint="only growing is possible",
        )
