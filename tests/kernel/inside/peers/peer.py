"""What every peer can do. Sizes in bytes."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Io:
    """Bytes so far: read from the array, written to the cache on NVMe."""

    backend: int
    cache: int

    def since(self, before: "Io") -> "Io":
        """What was added."""
        return Io(self.backend - before.backend, self.cache - before.cache)


@dataclass(frozen=True)
class Plan:
    """How often. ``rounds``: cold, a first boot, a second one; ``pairs``: prefetched, warm and limit in turn.

    ``storms``: so many boots at once, from a cold cache and after a prefetch, the most of them ``storm_rounds`` times.
    """

    rounds: int
    pairs: int
    storms: tuple[int, ...]
    storm_rounds: int
    present: tuple[int, ...]
    creations: int


class Peer(ABC):
    """A way to give many VMs a disk with the same content. ``running`` holds while the set-up exists."""

    name: str

    @abstractmethod
    def running(self, golden: Path) -> AbstractContextManager[None]:
        """Set it up with an image, and remove all of it in the end."""

    @abstractmethod
    def cold(self) -> None:
        """Empty every cache. Raises RuntimeError when one is not empty afterwards."""

    @abstractmethod
    def hatch(self, count: int) -> list[str]:
        """So many new clones; their NBD URIs."""

    @abstractmethod
    def drop(self) -> None:
        """Remove all clones."""

    @abstractmethod
    def io(self) -> Io:
        """What it has read and written."""


class Creating(ABC):
    """A peer whose clones can be counted: what one costs where there are many."""

    @abstractmethod
    def reach(self, present: int) -> None:
        """Make clones, in whatever way is quick, until so many are there; nobody uses them."""

    @abstractmethod
    def create(self) -> None:
        """Make one more as an operator does."""

    @abstractmethod
    def remove(self) -> None:
        """Remove that one."""

    @abstractmethod
    def space(self) -> int:
        """Bytes in use on the array and for metadata."""
