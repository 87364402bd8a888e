"""A cache that came back empty, on a new drive above all, is filled with the templates that clones use."""

import logging
import threading
from collections.abc import Callable

from appliance.catalog import Catalog
from appliance.errors import HatcheryError
from appliance.model import TemplateState
from appliance.schema import StoreView
from appliance.service.operations import Job

log = logging.getLogger(__name__)


class Rewarm:
    """Sees the cache come back, and has templates read through it, the most used first, one after the other."""

    def __init__(self, catalog: Catalog, warm: Callable[[str], Job], cold_marks: Callable[[], int]) -> None:
        """``warm`` starts to read a template through the cache; ``cold_marks`` see ``Measure``."""
        self._catalog = catalog
        self._warm = warm
        self._cold_marks = cold_marks
        self._mark = cold_marks()
        self._attached: bool | None = None
        self._thread: threading.Thread | None = None

    def look(self, store: StoreView) -> None:
        """Be told how the store is; begins when the cache is attached and was not at the look before."""
        before, self._mark = self._mark, self._cold_marks()
        if self._mark % 2 or self._mark != before:
            return  # the cache is emptied on purpose, and must be cold afterwards
        attached = store.cache is not None and store.cache.attached
        came_back = attached and self._attached is False
        self._attached = attached
        if not came_back or store.cache is None or (self._thread is not None and self._thread.is_alive()):
            return
        refs = wanted(self._catalog)
        if refs:
            log.info("the cache is back: templates are read through it: %s", ", ".join(refs))
            self._thread = threading.Thread(target=self._run, args=(refs,), name="rewarm", daemon=True)
            self._thread.start()

    def _run(self, refs: tuple[str, ...]) -> None:
        for ref in refs:
            try:
                self._warm(ref).finished.wait()
            except HatcheryError as error:
                log.warning("template %s is not warmed: %s", ref, error)


def wanted(catalog: Catalog) -> tuple[str, ...]:
    """The ready templates that clones depend on, the one with the most clones first."""
    counts = catalog.clone_counts()
    ready = [t for t in catalog.templates() if t.state is TemplateState.READY and counts.get(t.thin_id)]
    return tuple(t.ref for t in sorted(ready, key=lambda template: -counts[template.thin_id]))
