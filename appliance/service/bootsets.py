"""The boot sets of templates: learned from boots, brought as files, guessed from the version before."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median_low

from appliance.bootset import boot_set as boot_sets
from appliance.bootset import file, picture
from appliance.bootset.boot_set import CAP, BootSet
from appliance.bootset.extents import PAGE, overlap, pages_in_order, pages_read
from appliance.bootset.file import BootSetFile
from appliance.bootset.trace import Read, format_trace, parse_trace
from appliance.catalog import BootRun, Catalog, StoredBootSet, Template
from appliance.catalog.boot_sets import RUNS_KEPT
from appliance.errors import HatcheryError, InvalidInput, NotFound, NotReady
from appliance.model import Extent, TemplateRef, TemplateState
from appliance.schema import BootSetSummary, BootSetView, Removal
from appliance.service.core import Core

log = logging.getLogger(__name__)


class BootSets:
    """The verbs on boot sets."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._summaries: dict[int, tuple[float | None, BootSetSummary]] = {}

    def find(self, template: Template) -> BootSet | None:
        """The boot set of a template version; None when it has none. Raises InvalidInput when it is damaged."""
        stored = self._core.catalog.boot_set(template.thin_id)
        return None if stored is None else file.load(stored.text).boot_set

    def summary(self, template: Template) -> BootSetSummary | None:
        """The same without its extents."""
        stored = self._core.catalog.boot_set(template.thin_id)
        if stored is None:
            return None
        judged, known = self._summaries.get(template.thin_id, (None, None))
        now = self._core.catalog.boot_set_judged(template.thin_id)
        if known is None or (known.changed, judged) != (stored.changed, now):
            known = self._summary(template, stored, file.load(stored.text).boot_set)
            self._summaries[template.thin_id] = (now, known)
        return known

    def size_of(self, template: Template) -> int:
        """Size of a template's boot set, 0 of none or of one that is damaged."""
        try:
            found = self.summary(template)
        except InvalidInput:
            return 0
        return 0 if found is None else found.total_bytes

    def has_own(self, template: Template) -> bool:
        """Whether a template has a boot set that was learned from its own content."""
        stored = self._core.catalog.boot_set(template.thin_id)
        return stored is not None and not stored.guessed

    def show(self, text: str) -> BootSetView:
        """All of a template's boot set. Raises InvalidInput, NotFound."""
        template, stored = self._stored(text)
        found = file.load(stored.text)
        return BootSetView(
            **self._summary(template, stored, found.boot_set).model_dump(),
            template=template.ref,
            sha256=found.sha256,
            size=template.size,
            places=tuple((extent.offset, extent.length) for extent in found.boot_set.extents),
            picture=picture.draw(found.boot_set.extents, template.size),
        )

    def export(self, text: str) -> str:
        """A template's boot set as a file. Raises InvalidInput, NotFound."""
        return self._stored(text)[1].text

    def put(self, text: str, content: str) -> Template:
        """Give a template the boot set of a file; returns the template.

        Raises InvalidInput for what is no boot set or does not fit, NotFound, NotReady.
        """
        given = file.load(content)
        template = self._core.catalog.template(TemplateRef.parse(text))
        if template.state is not TemplateState.READY:
            raise NotReady(
                f"template {template.ref} takes no boot set",
                why=f"it is {template.state}",
                hint=f"wait until it is ready: `hatchery template show {template.ref}`",
            )
        stored = _stored(template, given, self._core.now())
        with self._core.lock:
            self._core.catalog.template_of_id(template.thin_id)  # it may be gone by now
            self._core.catalog.give_boot_set(stored)
        log.info("template %s was given a boot set of %d bytes", template.ref, given.boot_set.total)
        return template

    def remove(self, text: str) -> Removal:
        """Forget a template's boot set and the boots it was learned from; fine when there is none. Raises NotFound."""
        template = self._core.catalog.template(TemplateRef.parse(text))
        return Removal(name=template.ref, removed=self._core.catalog.remove_boot_set(template.thin_id))

    def add_run(self, template: Template, clone: str, reads: Sequence[Read], of: int | None = None) -> BootSet:
        """Keep a boot that was recorded, and make the boot set anew: of the newest ``of`` boots, this one among them;
        without a number, of one more than it is made of.

        Raises InvalidInput when this is no boot such as the others, or they have nothing in common, NotFound when the
        template is gone.
        """
        run = BootRun(template.thin_id, clone, self._core.now(), format_trace(reads))
        catalog = self._core.catalog
        while True:
            kept, known = catalog.boot_runs(template.thin_id), catalog.boot_set(template.thin_id)
            count = min(_made_of(known) if of is None else of - 1, len(kept))
            others = [parse_trace(each.trace) for each in kept[len(kept) - count :]]
            _check_alike(reads, others, template.size)
            made = boot_sets.merge([*others, reads], template.size)
            text = file.dump(BootSetFile(template.ref, template.sha256, made))
            with self._core.lock:
                catalog.template_of_id(template.thin_id)
                # All that takes its time was done without the lock.
                if (catalog.boot_runs(template.thin_id), catalog.boot_set(template.thin_id)) == (kept, known):
                    catalog.add_boot_run(run, max(RUNS_KEPT, made.runs))
                    catalog.put_boot_set(StoredBootSet(template.thin_id, text, False, self._core.now()))
                    break
        words = f"a boot set of {made.total} bytes from {made.runs} boot(s)"
        log.info("template %s: %s", template.ref, words)
        self._core.events.tell("template", template.ref, "learned", words)
        before = 0 if known is None else file.load(known.text).boot_set.total
        if 2 * made.total < before:
            words = "template %s: its boot set had %d bytes before: if a boot broke off, run `hatchery template learn`"
            log.warning(words, template.ref, before)
        return made

    def judge(self, template: Template, reads: Sequence[Read]) -> None:
        """Note how much of the boot set a boot read that it is not made of. Raises InvalidInput."""
        stored = self._core.catalog.boot_set(template.thin_id)
        if stored is not None:
            used = overlap(file.load(stored.text).boot_set.extents, _extents(reads, template.size))
            self._core.catalog.add_boot_check(stored, self._core.now(), used)

    def _stored(self, text: str) -> tuple[Template, StoredBootSet]:
        template = self._core.catalog.template(TemplateRef.parse(text))
        stored = self._core.catalog.boot_set(template.thin_id)
        if stored is None:
            raise NotFound(
                f"template {template.ref} has no boot set",
                why="none was learned yet, and none was given",
                hint="boot one of its clones, or give it one: `hatchery template boot-set import`",
            )
        return template, stored

    def _summary(self, template: Template, stored: StoredBootSet, found: BootSet) -> BootSetSummary:
        return BootSetSummary(
            total_bytes=found.total,
            extents=len(found.extents),
            runs=found.runs,
            guessed=stored.guessed,
            changed=stored.changed,
            wasted_bytes=self._wasted(template, found),
            judged=len(self._core.catalog.boot_checks(template.thin_id)),
        )

    def _wasted(self, template: Template, found: BootSet) -> int | None:
        checks = self._core.catalog.boot_checks(template.thin_id)
        if checks:
            return found.total - median_low(checks)
        runs = self._core.catalog.boot_runs(template.thin_id)[-found.runs :]
        used = [overlap(found.extents, _extents(parse_trace(run.trace), template.size)) for run in runs]
        return found.total - round(fmean(used)) if used else None


def _extents(reads: Sequence[Read], size: int) -> list[Extent]:
    return [Extent(first * PAGE, (last - first) * PAGE) for first, last in pages_in_order(reads, size)]


def first(
    catalog: Catalog, template: Template, size: int, sha256: str | None, given: BootSetFile | None, now: float
) -> StoredBootSet | None:
    """What a new version of ``size`` bytes begins with: the boot set that came with it, or the last version's.

    Raises InvalidInput when the given one does not fit.
    """
    finished = replace(template, size=size, sha256=sha256)
    if given is not None:
        return _stored(finished, given, now)
    for version in catalog.versions(template.name):
        stored = catalog.boot_set(version.thin_id)
        if version.thin_id == template.thin_id or stored is None:
            continue
        try:
            return _stored(finished, _cut(file.load(stored.text), size), now)
        except HatcheryError as error:
            log.warning("template %s begins without a boot set: %s", template.ref, error)
            return None
    return None


def _made_of(known: StoredBootSet | None) -> int:
    """Of how many boots of the template itself a boot set is made, as far as one more may be added."""
    return 0 if known is None or known.guessed else min(file.load(known.text).boot_set.runs, RUNS_KEPT - 1)


def _check_alike(reads: Sequence[Read], others: Sequence[Sequence[Read]], size: int) -> None:
    """Refuse a boot that broke off, once it is known how much boots read: one alone may have been another thing too.

    Raises InvalidInput.
    """
    if len(others) < 2:
        return
    read, usual = pages_read(reads, size), median_low(pages_read(each, size) for each in others)
    if 2 * read < usual:
        raise InvalidInput(
            "it broke off, or was another thing than a boot", why=f"it read {read} bytes, others {usual}"
        )


def _stored(template: Template, given: BootSetFile, now: float) -> StoredBootSet:
    """As the template's own. Raises InvalidInput when it does not fit on the template, or is no boot's for its size."""
    if given.boot_set.total > CAP:
        raise InvalidInput(
            f"the boot set of template {template.ref} is too large",
            why=f"it has {given.boot_set.total} bytes, and at most {CAP} are prefetched for a boot",
            hint="`hatchery template warm` reads all of a template that has no boot set",
        )
    end = max(extent.end for extent in given.boot_set.extents)
    if end > -(-template.size // PAGE) * PAGE:
        raise InvalidInput(
            f"the boot set does not fit on template {template.ref}",
            why=f"it reads up to byte {end}, the template has {template.size} bytes",
            hint="it belongs to another template",
        )
    own = given.sha256 is not None and given.sha256 == template.sha256
    fitted = replace(given, boot_set=replace(given.boot_set, size=template.size))
    return StoredBootSet(template.thin_id, file.dump(fitted), not own, now)


def _cut(found: BootSetFile, size: int) -> BootSetFile:
    """Without what lies past ``size`` bytes. Raises InvalidInput when nothing is left."""
    whole = size // PAGE * PAGE
    kept = tuple(
        Extent(extent.offset, min(extent.end, whole) - extent.offset)
        for extent in found.boot_set.extents
        if extent.offset < whole
    )
    if not kept:
        raise InvalidInput("nothing of the last version's boot set lies on this one", why="the new image is smaller")
    return replace(found, boot_set=BootSet(kept, size, found.boot_set.runs))
