"""The bar itself, by rich."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from appliance.progress import QUIET, Bar
from appliance.words import size

_MINUTE = 60.0


def terminal() -> Console:
    """Where it is shown; made when used, so that it is the stream of now."""
    return Console(stderr=True, highlight=False)


@contextmanager
def shown(often: float) -> Iterator[Bar]:
    """A bar on standard error, if that is a terminal. What is printed and logged meanwhile goes above it."""
    console = terminal()
    if not console.is_terminal:
        yield QUIET
        return
    display = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Amount(),
        _Rate(),
        TimeElapsedColumn(),
        _Left(),
        console=console,
        transient=True,
        refresh_per_second=often,
        # The standard output may be a file, which is nothing for the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
    own = sys.stderr
    with display:
        handlers = [
            each
            for each in logging.getLogger().handlers
            if isinstance(each, logging.StreamHandler) and each.stream is own
        ]
        for handler in handlers:
            handler.setStream(sys.stderr)
        try:
            yield _Shown(display)
        finally:
            for handler in handlers:
                handler.setStream(own)


class _Shown:
    """One task of a display."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._task = display.add_task("", total=None, things="")
        self._things = ""
        self._done = 0

    def begin(self, words: str, total: int | None = None, things: str = "") -> None:
        """See Bar."""
        self._display.refresh()  # how the phase before ended
        self._things, self._done = things, 0
        self._display.reset(self._task, description=words, things=things)
        # A reset takes None for no change.
        self._display.tasks[0].total = total

    def add(self, count: int = 1) -> None:
        """See Bar."""
        self._done += count
        self._display.advance(self._task, count)

    def tell(self, words: str, done: int, total: int | None = None, things: str = "") -> None:
        """See Bar."""
        if done < self._done or things != self._things:
            self.begin(words, total, things)
        self._done = done
        self._display.tasks[0].total = total
        self._display.update(self._task, description=words, completed=done)


def speed(task: Task) -> float | None:
    """So many a second: bytes of late, things on the whole, which come too seldom for that. None before the first."""
    if not task.completed or not task.elapsed:
        return None
    late = None if task.fields["things"] else task.speed
    return late or task.completed / task.elapsed


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        things = task.fields["things"]
        if things:
            of = "" if task.total is None else f"/{task.total:.0f}"
            return Text(f"{task.completed:.0f}{of} {things}", style="progress.download")
        of = "" if task.total is None else f" of {size(round(task.total))}"
        return Text(f"{size(round(task.completed))}{of}", style="progress.download")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        found, things = speed(task), task.fields["things"]
        if found is None:
            return Text("?", style="progress.data.speed")
        if not things:
            return Text(f"{size(round(found))}/s", style="progress.data.speed")
        rate = f"{found:.1f} {things}/s" if found >= 1 else f"{found * _MINUTE:.1f} {things}/min"
        return Text(rate, style="progress.data.speed")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        found = speed(task)
        if found is None or task.total is None:
            return Text("left: -:--:--", style="progress.remaining")
        minutes, seconds = divmod(round(max(0.0, task.total - task.completed) / found), 60)
        return Text(f"left: {minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.remaining")
