"""Whose boot sets have room in the cache beside each other: those of what is used most."""

from appliance.catalog import Template
from appliance.model import TemplateState
from appliance.service.bootsets import BootSets
from appliance.service.core import Core

SHARE = 0.5
"""Of the cache, what boot sets may fill by themselves."""


class Shares:
    """The templates by use, and what the cache has no room for. ``cache_size``: bytes; None before a cache was seen."""

    def __init__(self, core: Core, boot_sets: BootSets) -> None:
        self._core = core
        self._boot_sets = boot_sets
        self.cache_size: int | None = None

    def by_use(self) -> list[Template]:
        """The templates that are ready, those with the most clones first."""
        counts = self._core.catalog.clone_counts()
        ready = [found for found in self._core.catalog.templates() if found.state is TemplateState.READY]
        return sorted(ready, key=lambda template: -counts.get(template.thin_id, 0))

    def outside(self, *, whole: bool = False) -> frozenset[int]:
        """Thin ids of the templates for whose boot sets others leave no room; none before a cache was seen.

        ``whole``: clones' templates without one count with their size, for they are about to be read.
        """
        if self.cache_size is None:
            return frozenset()
        found = set()
        used = self._core.catalog.clone_counts()
        left = int(self.cache_size * SHARE)
        for template in self.by_use():
            total = self._boot_sets.size_of(template)
            if whole and not total and used.get(template.thin_id):
                total = template.size
            if total <= left:
                left -= total
            else:
                found.add(template.thin_id)
        return frozenset(found)
