"""Where templates lie in the pool's data, asked once for each: a sealed volume's blocks stay where they are."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from appliance.catalog import Template
from appliance.errors import HatcheryError
from appliance.model import Extent
from appliance.service.core import Core

log = logging.getLogger(__name__)

KNOWN = 128
MOST = 10_000
"""Of so many boot sets and whole templates the places are kept; of a boot set they are some hundred, and of a template
in a pool with many small gaps more than are kept."""


class Places:
    """What was found of the boot sets that were fetched last."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._known: dict[tuple[int, tuple[Extent, ...]], tuple[Path, Sequence[Extent]]] = {}

    def of(self, template: Template, device: Path, extents: Sequence[Extent]) -> tuple[Path, Sequence[Extent]]:
        """A device, and the extents of it that hold what ``extents`` of the template do; holes are left out.

        That is the template's own ``device`` while another reads the pool's metadata, or it cannot be read.
        """
        key = template.thin_id, tuple(extents)
        with self._lock:
            known = self._known.pop(key, None)
        if known is None:
            try:
                known = self._core.pool.places(template.thin_id, extents)
            except HatcheryError as error:
                log.info("template %s is read as a volume: %s", template.ref, error)
                return device, extents
        with self._lock:
            if len(known[1]) <= MOST:
                self._known[key] = known
            while len(self._known) > KNOWN:
                del self._known[next(iter(self._known))]
        return known

    def forget(self, template: Template) -> None:
        """What was found was not it."""
        with self._lock:
            for key in [key for key in self._known if key[0] == template.thin_id]:
                del self._known[key]
