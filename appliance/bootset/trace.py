"""A recorded boot: the reads that a clone received, in order.

As text, a line for each read: its offset and its length in bytes, and the microseconds since the first one where they
were recorded. A ``#`` begins a comment.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Read:
    """One read: bytes, and microseconds since the first read of the boot if they are known."""

    offset: int
    length: int
    micros: int | None = None


def parse_trace(text: str) -> tuple[Read, ...]:
    """The reads of a trace. Raises InvalidInput, which names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            found.append(_read(words, number))
    if not found:
        raise InvalidInput(
            "the trace is empty",
            why="no line of it is a read",
            hint="a trace has a line for each read: OFFSET LENGTH [MICROSECONDS]",
        )
    return tuple(found)


def _read(words: list[str], number: int) -> Read:
    if len(words) not in (2, 3) or not all(word.isascii() and word.isdecimal() for word in words):
        raise InvalidInput(
            f"line {number} of the trace is not a read",
            why=f"it says {' '.join(words)[:60]!r}",
            hint="a read is OFFSET LENGTH [MICROSECONDS], in bytes",
        )
    offset, length, *micros = (int(word) for word in words)
    if length == 0:
        raise InvalidInput(f"line {number} of the trace reads nothing", why="its length is 0")
    return Read(offset, length, micros[0] if micros else None)


def format_trace(reads: Iterable[Read], comment: str = "") -> str:
    """The same as text, ``comment`` in its first lines."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"{read.offset} {read.length}{'' if read.micros is None else f' {read.micros}'}" for read in reads]
    return "\n".join(lines) + "\n"
