"""The last measurements of boots, as whoever made them told: for the status page and the metrics, and no truth of ours.

They are in a file beside the catalog, by the template's volume, so that a version that goes takes its own along. A
file that cannot be read is a loss of the past alone: it is said, and begun anew.
"""

import logging
import threading
import time
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from appliance.catalog import Catalog
from appliance.host import files
from appliance.model import TemplateRef
from appliance.schema import BootTimes, Measured, MeasurementList, MeasurementView

log = logging.getLogger(__name__)

KEPT = 20
"""Measurements of a template that are remembered."""

_Kept = dict[int, list[MeasurementView]]
_FORM = TypeAdapter(_Kept)


class Measurements:
    """What is remembered. Thread-safe."""

    def __init__(self, catalog: Catalog, file: Path) -> None:
        self._catalog = catalog
        self._file = file
        self._lock = threading.Lock()

    def add(self, text: str, measured: Measured) -> MeasurementView:
        """Remember a measurement of a template's boots. Raises InvalidInput, NotFound."""
        template = self._catalog.template(TemplateRef.parse(text))
        phases = {each.phase: each for each in measured.phases}
        view = MeasurementView(template=template.ref, taken=time.time(), on=measured.on, phases=tuple(phases.values()))
        with self._lock:
            kept = self._load()
            kept[template.thin_id] = [*kept.get(template.thin_id, ()), view][-KEPT:]
            files.replace(self._file, _FORM.dump_json(kept), 0o600)
        log.info("boots of %s were measured: %s", template.ref, ", ".join(map(_words, view.phases)))
        return view

    def list(self) -> MeasurementList:
        """All, newest first."""
        with self._lock:
            found = [view for views in self._load().values() for view in views]
        return MeasurementList(measurements=tuple(sorted(found, key=lambda view: -view.taken)))

    def _load(self) -> _Kept:
        """Those of templates that there are."""
        try:
            kept = _FORM.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.warning("past measurements cannot be read, and are forgotten: %s", error)
            return {}
        there = {template.thin_id for template in self._catalog.templates()}
        return {thin_id: views for thin_id, views in kept.items() if thin_id in there}


def _words(times: BootTimes) -> str:
    return f"{times.phase} {times.seconds_median:.1f} s"
