"""What the doctor looks at besides store, exports and plan: templates, boot sets, and who works on images."""

import contextlib
from collections.abc import Iterable, Iterator

from appliance.catalog import Template
from appliance.errors import NotFound
from appliance.images.convert import Converter
from appliance.model import Health, PoolName, Problem, TemplateState
from appliance.reconcile.volumes import Devices
from appliance.service.core import Core
from appliance.service.prefetching import Prefetching
from appliance.service.setbacks import Part

RETRY = "run `hatchery store reconcile`; if it stays so, stop and start hatcheryd"


class Looks:
    """Each raises HatcheryError when it could not look."""

    def __init__(self, core: Core, prefetching: Prefetching, converter: Converter) -> None:
        self._core = core
        self._prefetching = prefetching
        self._converter = converter

    def read_ahead(self) -> tuple[Problem, ...]:
        """Rule 2: what boot sets are read from, and what is being read, cannot be written."""
        return tuple(
            Problem(Health.FAILED, f"template {each.ref} is read into the cache and can be written", RETRY, 2)
            for each in self._unsealed()
            if self._core.catalog.boot_set(each.thin_id) is not None or self._prefetching.is_busy_with(each.thin_id)
        )

    def sealed(self) -> tuple[Problem, ...]:
        """Rule 11: what clones are snapshots of is read-only in the kernel."""
        return tuple(
            Problem(Health.FAILED, f"template {each.ref} can be written, and clones are made of it", RETRY, 11)
            for each in self._unsealed()
        )

    def _unsealed(self) -> Iterator[Template]:
        devices = self._core.pools[PoolName.DURABLE].devices()
        for template in self._core.catalog.templates():
            found = devices.get(template.thin_id)
            # Without a device nobody writes to it, and one that is being fetched is written below what clones see.
            if template.state is TemplateState.READY and found is not None and found.devices is not Devices.SEALED:
                yield template

    def put_back(self) -> tuple[Problem, ...]:
        """Rule 14: what an import pushed out of the cache is in it again, as far as there is room."""
        # That all of a template has no room, which has no boot set yet, is nothing that went wrong.
        short = (each for each, view in self._prefetching.short() if view.passes and not self._lacks_boot_set(each))
        hint = "boot a clone of it, for then its boot set is kept, or run `hatchery template warm {}`"
        whole = (_missing(f"template {ref}", hint.format(ref)) for ref in self._refs(short))
        return (*self.boot_sets(), *whole)

    def boot_sets(self) -> tuple[Problem, ...]:
        """The boot sets that did not get into the cache, or have no room there, for as long as that is so: each boot of
        their templates needs the backend.

        That all of a template did not get in is not among them, unasked or by command: it is wanted for the first boots
        alone, which teach a boot set, and whoever asked for it was told by his operation. Who asks the doctor hears of
        it. Quick, however many templates there are: the catalog is asked about those that fell short.
        """
        short = (each for each, _ in self._prefetching.short() if self._lacks_boot_set(each))
        hint = (
            "it is tried again while half of the cache has room for it beside others (`hatchery template show {}` says"
            " how it went): remove templates that nobody needs, or run `hatchery template warm {}`"
        )
        return tuple(_missing(f"the boot set of {ref}", hint.format(ref, ref)) for ref in self._refs(short))

    def _lacks_boot_set(self, thin_id: int) -> bool:
        fell_short = self._prefetching.setbacks.fell_short((thin_id, Part.BOOT_SET))
        return fell_short and self._core.catalog.boot_set(thin_id) is not None

    def _refs(self, thin_ids: Iterable[int]) -> list[str]:
        """Names of templates, in order; without those that were removed."""
        found = []
        for thin_id in thin_ids:
            with contextlib.suppress(NotFound):
                found.append(self._core.catalog.template_of_id(thin_id).ref)
        return sorted(found)

    def confined(self) -> tuple[Problem, ...]:
        """Rule 16: who works on an uploaded image at this moment can do nothing else."""
        hint = "end it (`hatchery operation cancel`); is a drop-in below /etc/systemd/system in the way?"
        return tuple(Problem(Health.FAILED, what, hint, 16) for what in self._converter.breaches())


def _missing(what: str, hint: str) -> Problem:
    return Problem(Health.DEGRADED, f"{what} is not wholly in the cache", hint, 14, "cache")
