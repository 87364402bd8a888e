"""Versions of the image: whole numbers with dots between them, as in ``0.2.0``, compared number by number.

systemd, which picks the newest by its own rules, orders such versions in the same way (UAPI.10).
"""

import re
from dataclasses import dataclass

from appliance.errors import InvalidInput

LONGEST = 20
"""Characters: a partition's label, which has 36 at most, holds the image's name as well."""

_VERSION = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; ``0.9`` comes before ``0.9.0``, and that before ``0.10``."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(str(number) for number in self.numbers)


def parse(text: str) -> Version:
    """The version that ``text`` names. Raises InvalidInput."""
    if len(text) > LONGEST or not _VERSION.fullmatch(text):
        raise InvalidInput(
            f"{text!r} is not a version of the image",
            why=f"it is whole numbers with dots between them, {LONGEST} characters at most",
            hint="for example 0.2.0",
        )
    return Version(tuple(int(number) for number in text.split(".")))
