"""What the doctor looks at besides store, exports and plan: templates, boot sets, and who works on images."""

from collections.abc import Iterator

from appliance.catalog import Template
from appliance.images.convert import Converter
from appliance.model import Health, PoolName, Problem, TemplateState
from appliance.reconcile.volumes import Devices
from appliance.service.core import Core
from appliance.service.prefetching import SHORT, Prefetching

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
        found = []
        for template in self._core.catalog.templates():
            view = self._prefetching.view(template.thin_id)
            own = self._core.catalog.boot_set(template.thin_id) is not None
            # That all of a template has no room, which has no boot set yet, is nothing that went wrong.
            if view is not None and view.state in SHORT and (own or view.passes):
                what = f"{'the boot set of' if own else 'template'} {template.ref} is not wholly in the cache"
                hint = "run `hatchery template warm`, and see with `hatchery template show` whether all of it has room"
                found.append(Problem(Health.DEGRADED, what, hint, 14))
        return tuple(found)

    def confined(self) -> tuple[Problem, ...]:
        """Rule 16: who works on an uploaded image at this moment can do nothing else."""
        hint = "end it (`hatchery operation cancel`); is a drop-in below /etc/systemd/system in the way?"
        return tuple(Problem(Health.FAILED, what, hint, 16) for what in self._converter.breaches())
