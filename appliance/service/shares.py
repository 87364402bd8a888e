"""What has room in the cache: boot sets beside each other, and beside them what has no boot set of its own as a whole.

Those of what is used most come first, and of what is used alike the newer ones.
"""

from dataclasses import dataclass

from appliance.catalog import Template
from appliance.errors import HatcheryError
from appliance.model import TemplateState
from appliance.service.bootsets import BootSets
from appliance.service.core import Core

SHARE = 0.5
"""Of the cache, what is read into it unasked."""


@dataclass(frozen=True, slots=True)
class Room:
    """Thin ids: ``outside`` are the templates whose boot sets have no room; ``whole`` those that have no boot set of
    their own, and room as a whole."""

    outside: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()


class Shares:
    """The templates by use, and what the cache has room for."""

    def __init__(self, core: Core, boot_sets: BootSets) -> None:
        self._core = core
        self._boot_sets = boot_sets

    def by_use(self) -> list[Template]:
        """The templates that are ready, those with the most clones first."""
        counts = self._core.catalog.clone_counts()
        ready = [found for found in self._core.catalog.templates() if found.state is TemplateState.READY]
        return sorted(ready, key=lambda template: (-counts.get(template.thin_id, 0), -template.thin_id))

    def rooms(self, cache_size: int | None) -> Room:
        """What a cache of so many bytes has room for. Before one was seen all boot sets have, and nothing else."""
        if cache_size is None:
            return Room()
        templates = self.by_use()
        left = int(cache_size * SHARE)
        outside, whole = set(), set()
        for template in templates:
            total = self._boot_sets.size_of(template)
            if total <= left:
                left -= total
            else:
                outside.add(template.thin_id)
        for template in templates:
            if self._boot_sets.has_own(template):
                continue
            guessed = 0 if template.thin_id in outside else self._boot_sets.size_of(template)
            rest = max(0, self.held(template) - guessed)
            if rest <= left:
                left -= rest
                whole.add(template.thin_id)
        return Room(frozenset(outside), frozenset(whole))

    def held(self, template: Template) -> int:
        """Bytes that a template has, holes left out; its size when the pool does not say."""
        try:
            return self._core.pool.held_bytes(template.thin_id)
        except HatcheryError:
            return template.size
