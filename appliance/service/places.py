"""Where templates lie in the pool's data, asked once for each: a sealed volume's blocks stay where they are."""

import logging
from collections.abc import Sequence
from pathlib import Path

from appliance.catalog import Template
from appliance.errors import HatcheryError
from appliance.model import Extent
from appliance.service.core import Core

log = logging.getLogger(__name__)

KNOWN = 64
"""Of so many templates the places are kept; of a boot set they are some hundred."""


class Places:
    """What was found of the boot sets that were fetched last."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[int, tuple[tuple[Extent, ...], Path, Sequence[Extent]]] = {}

    def of(self, template: Template, device: Path, extents: Sequence[Extent]) -> tuple[Path, Sequence[Extent]]:
        """A device, and the extents of it that hold what ``extents`` of the template do; holes are left out.

        That is the template's own ``device`` while another reads the pool's metadata, or it cannot be read.
        """
        known = self._known.pop(template.thin_id, None)
        if known is None or known[0] != tuple(extents):
            try:
                known = (tuple(extents), *self._core.pool.places(template.thin_id, extents))
            except HatcheryError as error:
                log.info("template %s is read as a volume: %s", template.ref, error)
                return device, extents
        self._known[template.thin_id] = known
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return known[1:]

    def forget(self, template: Template) -> None:
        """What was found was not it."""
        self._known.pop(template.thin_id, None)
