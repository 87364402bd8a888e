"""When what did not get into the cache is tried again."""

from enum import Enum
from time import monotonic

CHECK_SECONDS = 600.0
"""Time between two looks at whether the cache still has what it is to have."""

HOLD_SECONDS = 900.0
"""A cache that was emptied by command stays as it is for so long: somebody measures."""

PATIENCE = 6
"""After a prefetch that did not get all in, the next comes with the next look; then the pause doubles, so often."""


class Part(Enum):
    """What is read of a template: its boot set, or all that it has."""

    BOOT_SET = "boot set"
    WHOLE = "whole"


Key = tuple[int, Part]
"""A template's thin id, and what was to be read of it."""


class Setbacks:
    """What fell short, how often in a row, and until when it is let alone."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}
        self._not_before: dict[Key, float] = {}

    def add(self, key: Key) -> None:
        """It was read, and did not get in."""
        count = self._counts[key] = self._counts.get(key, 0) + 1
        self._not_before[key] = monotonic() + CHECK_SECONDS * (2 ** min(count - 1, PATIENCE) - 1)

    def had_no_room(self, key: Key) -> None:
        """It was not read: once there is room, it is."""
        self._counts.setdefault(key, 0)

    def let_alone(self, thin_id: int) -> None:
        """Somebody does not want a template to be read now."""
        for part in Part:
            self._not_before[thin_id, part] = monotonic() + HOLD_SECONDS

    def forget(self, key: Key) -> None:
        """It got in."""
        self._counts.pop(key, None)

    def fell_short(self, key: Key) -> bool:
        """Whether the last time it did not get in."""
        return key in self._counts

    def waits(self, key: Key) -> bool:
        """Whether it is let alone for now."""
        return monotonic() < self._not_before.get(key, 0.0)
