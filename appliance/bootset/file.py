"""A boot set as a file, to be carried to another appliance: JSON, sizes in bytes."""

import json
from dataclasses import dataclass
from typing import Any

from appliance.bootset.boot_set import BootSet
from appliance.errors import InvalidInput
from appliance.model import Extent

FORMAT = "hatchery-boot-set"
VERSION = 1
LARGEST = 16 << 20
"""Bytes that such a file may have: some 700,000 extents."""


@dataclass(frozen=True, slots=True)
class BootSetFile:
    """A boot set, and of which template: ``sha256`` of its content, None when it is not known."""

    template: str
    sha256: str | None
    boot_set: BootSet


def dump(found: BootSetFile) -> str:
    """As text, an extent in each line."""
    extents = ",\n  ".join(f"[{extent.offset}, {extent.length}]" for extent in found.boot_set.extents)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "template": found.template,
        "sha256": found.sha256,
        "size": found.boot_set.size,
        "runs": found.boot_set.runs,
    }
    return json.dumps(head)[:-1] + f', "extents": [\n  {extents}\n]}}\n'


def load(text: str) -> BootSetFile:
    """Read it back. Raises InvalidInput for anything that ``dump`` does not write."""
    if len(text) > LARGEST:
        raise InvalidInput("the boot set is too large", why=f"it has {len(text)} bytes, at most {LARGEST} are read")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("this is no boot set", why=f"it is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InvalidInput(
            "this is no boot set",
            why=f"it does not say that its format is {FORMAT}",
            hint="`hatchery template boot-set export` writes one",
        )
    if found.get("version") != VERSION:
        raise InvalidInput("the boot set is of another release", why=f"its version is {found.get('version')!r}")
    sha256 = found.get("sha256")
    return BootSetFile(
        template=_text(found, "template"),
        sha256=None if sha256 is None else _text(found, "sha256"),
        boot_set=BootSet(_extents(found.get("extents")), _number(found, "size"), _number(found, "runs")),
    )


def _extents(found: object) -> tuple[Extent, ...]:
    if not isinstance(found, list) or not found:
        raise InvalidInput(
            "the boot set has no extents", why="there would be nothing to read", hint="record boots anew"
        )
    made = []
    for each in found:
        # A bool is an int to Python, and none to people.
        if not isinstance(each, list) or len(each) != 2 or not all(type(number) is int for number in each):
            raise InvalidInput(
                f"{each!r:.60} is no extent",
                why="it is not a pair of whole numbers",
                hint="an extent is [OFFSET, LENGTH] in bytes",
            )
        made.append(Extent(each[0], each[1]))
    return tuple(made)


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or len(value) > 200:
        raise InvalidInput(f"the boot set's {key} is not a name", why=f"it is {value!r:.60}")
    return value


def _number(found: dict[str, Any], key: str) -> int:
    value = found.get(key)
    if type(value) is not int or not 0 < value < 1 << 63:
        raise InvalidInput(f"the boot set's {key} is not a number", why=f"it is {value!r:.60}")
    return value
