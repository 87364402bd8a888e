"""One glance at the machine: what sysfs said a moment ago is not asked for again while it lasts.

A look at the store asks for the same arrays and partitions from many places, each of which stands alone elsewhere. The
answers are kept for the thread that looks, and only until its glance is over. Whoever changes devices asks ``anew``.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_seen: ContextVar[dict[Hashable, object] | None] = ContextVar("seen", default=None)


@contextmanager
def one() -> Iterator[None]:
    """For its time, each function that is ``remembered`` is asked once for each of its arguments.

    Within another glance it is part of that one.
    """
    if _seen.get() is not None:
        yield
        return
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


@contextmanager
def anew() -> Iterator[None]:
    """For its time, and after it, nothing that was seen before is believed: devices are being changed."""
    seen = _seen.get()
    token = _seen.set(None)
    try:
        yield
    finally:
        _seen.reset(token)
        if seen is not None:
            seen.clear()


def remembered(ask: Callable[P, T]) -> Callable[P, T]:
    """Have the function answer from memory within one glance. Its arguments are hashable; errors are not kept."""

    @wraps(ask)
    def answer(*args: P.args, **kwargs: P.kwargs) -> T:
        seen = _seen.get()
        if seen is None:
            return ask(*args, **kwargs)
        key = (ask, args, tuple(sorted(kwargs.items())))
        if key not in seen:
            seen[key] = ask(*args, **kwargs)
        return seen[key]  # type: ignore[return-value]  # the dictionary holds answers of many types, this key's is T

    return answer
