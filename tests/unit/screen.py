"""A terminal that keeps what was drawn on it."""

import io
import re

import pytest
from rich.console import Console

from appliance.progress import display

RATE = re.compile(r"[0-9.]+ \w+/(s|min)")
LEFT = re.compile(r"left: \d+:\d\d:\d\d")


class Screen:
    """What standard error would be."""

    def __init__(self) -> None:
        self.file = io.StringIO()

    def console(self) -> Console:
        return Console(file=self.file, force_terminal=True, width=200, color_system=None)

    @property
    def lines(self) -> list[str]:
        return [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", self.file.getvalue()) if line.strip()]

    def seen(self, words: str, amount: str = "", *, left: bool = True) -> None:
        """There was a bar of something with so much done and its rate; and with the time that is left, if it can be."""
        bars = [line for line in self.lines if words in line and amount in line]
        assert bars, (words, amount, self.lines)
        assert [line for line in bars if RATE.search(line) and bool(LEFT.search(line)) is left], bars


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setattr(display, "terminal", made.console)
    return made
