"""How far something is, for somebody at a terminal: a bar on standard error, with its rate and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """What is told how far something is: bytes, or ``things`` that are counted, of which ``total`` come if known."""

    def begin(self, words: str, total: int | None = None, things: str = "") -> None:
        """Another phase begins, and counts from zero."""

    def add(self, count: int = 1) -> None:
        """So many more are done."""

    def tell(self, words: str, done: int, total: int | None = None, things: str = "") -> None:
        """It stands so now. Less than it was, or of other things, is another phase."""


class Quiet:
    """Nobody looks on."""

    def begin(self, words: str, total: int | None = None, things: str = "") -> None:
        """See Bar."""

    def add(self, count: int = 1) -> None:
        """See Bar."""

    def tell(self, words: str, done: int, total: int | None = None, things: str = "") -> None:
        """See Bar."""


QUIET: Bar = Quiet()


@contextmanager
def bar(
    words: str, total: int | None = None, things: str = "", *, show: bool = True, often: float = 10.0
) -> Iterator[Bar]:
    """A bar while this lasts, gone afterwards; where nobody watches, or it is not to be shown, none.

    ``often`` is how many times a second it is drawn: seldom, where something is measured meanwhile.
    """
    if not show:
        yield QUIET
        return
    from appliance.progress import display  # imported late: what shows no bar starts faster without

    with display.shown(often) as found:
        found.begin(words, total, things)
        yield found
