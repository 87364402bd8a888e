"""What the service needs of the store: the real one in the appliance, a model of it in unit tests.

Sizes are bytes. Errors are those of ``appliance.errors``, raised as the docstrings say.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from appliance.host.trace import Batch
from appliance.model import Access, Extent, Histogram, PoolName, Problem
from appliance.reconcile.volumes import FoundDevice
from appliance.schema import Counters, StoreView


class PoolNumbers(Protocol):
    """The pool's state at one moment."""

    @property
    def transaction_id(self) -> int:
        """The number that the pool and the catalog agree on (rule 9)."""

    @property
    def data_used(self) -> int:
        """Bytes of data that are mapped."""

    @property
    def data_total(self) -> int:
        """Bytes of data that there are."""

    @property
    def metadata_used(self) -> int:
        """Bytes of metadata in use."""

    @property
    def metadata_total(self) -> int:
        """Bytes of metadata that there are."""

    @property
    def block_bytes(self) -> int:
        """Size of a block, the unit of allocation."""


class Usage(Protocol):
    """What a volume maps, in bytes."""

    @property
    def mapped(self) -> int:
        """Blocks shared with others included."""

    @property
    def exclusive(self) -> int:
        """What comes back when this volume goes and no other."""


class Pool(Protocol):
    """A pool. The durable one has templates, staging volumes and durable clones, the fast one ephemeral clones."""

    def identity(self) -> str:
        """What tells this pool from one on other drives; empty for the durable pool. Raises NotReady."""

    def status(self) -> PoolNumbers:
        """Its state now."""

    def create_thin(self, thin_id: int) -> None:
        """Make an empty volume. Raises AlreadyExists."""

    def create_snapshot(self, thin_id: int, origin: int) -> None:
        """Make a snapshot of a sealed volume, or of one that is held still. Raises AlreadyExists, NotFound."""

    def still(self, thin_id: int) -> AbstractContextManager[None]:
        """Hold a volume's I/O: what is under way ends first, what comes waits. Fine when it has no device."""

    def delete(self, thin_id: int) -> None:
        """Remove an inactive volume and free its blocks. Raises NotFound, InUse."""

    def empty(self, thin_id: int, go_on: Callable[[], bool]) -> bool:
        """Give back an inactive volume's blocks, piece by piece, as long as ``go_on``; whether all went."""

    def held_bytes(self, thin_id: int) -> int:
        """Bytes mapped in a volume, active or not. Raises NotFound."""

    def usage(self) -> Mapping[int, Usage]:
        """What each volume maps, and what of that no other does. Slow. Raises CannotTell, InUse."""

    def places(self, thin_id: int, extents: Sequence[Extent]) -> tuple[Path, Sequence[Extent]]:
        """Where extents of a sealed volume lie in the pool's data: its device, and extents of it, without holes.

        Raises InUse while another reads the metadata, NotFound, CannotTell.
        """

    def requests(self) -> int:
        """Reads and writes of the pool's data so far."""

    def exists(self, thin_id: int) -> bool:
        """Whether the pool has the volume, by looking."""

    def set_transaction_id(self, old: int, new: int) -> None:
        """Compare and swap. Raises Unhealthy when the pool's number is not ``old``."""

    def thin_ids(self) -> frozenset[int]:
        """All volumes that the pool has. Slow."""

    def activate_template(self, thin_id: int, size: int, access: Access) -> Path:
        """Make a template's device, or change its access. One that was fetched is sealed under whoever reads it."""

    def activate_fetching(self, thin_id: int, size: int) -> Path:
        """Make the devices of a template that is being fetched; the one to write to. Until ``show_source`` what is
        not in its volume cannot be read, and fails. What there is already stays as it is.
        """

    def show_source(self, thin_id: int, source: Path | None) -> None:
        """Read from ``source`` what is not in the volume of a template that is being fetched; from none, errors.

        Raises NotFound.
        """

    def origin(self, thin_id: int, size: int, *, whole: bool) -> Path:
        """The template's device that clones show. Raises NotReady for one that is being fetched and has none."""

    def activate_staging(self, thin_id: int, size: int) -> Path:
        """Make a staging volume's device."""

    def activate_still(self, thin_id: int, size: int, origin: Path | None) -> Path:
        """Make a read-only device of a clone's snapshot, over ``origin`` if that is the snapshot of an overlay."""

    def activate_clone(self, thin_id: int, size: int, origin: Path | None = None) -> Path:
        """Make a clone's device with its retry layer; an overlay shows ``origin`` where nothing was written."""

    def activate_ephemeral(self, thin_id: int, size: int, origin: Path) -> Path:
        """Make an ephemeral clone's device over its sealed template's device. Raises Refused, NotFound."""

    def devices(self) -> Mapping[int, FoundDevice]:
        """The devices of the pool's volumes that are there now, by thin id."""

    def deactivate(self, thin_id: int) -> None:
        """Remove the volume's devices; fine when there are none. Raises InUse."""

    def mapped_bytes(self, thin_id: int) -> int:
        """Bytes mapped in an active volume. Raises NotFound when it is not active."""


Tell = Callable[[str, int, int, str], None]
"""Is told how far something is: in words, what is done of what in all, and what is counted if it is not bytes."""

Pools = Mapping[PoolName, Pool]
"""The pools that are there. The durable one always is."""


class Store(Protocol):
    """The stack under the pool, as far as it is looked at and measured. Answers are the API's own types."""

    def look(self) -> tuple[StoreView, tuple[Problem, ...]]:
        """How all parts are, and what an operator should know. A part that cannot be read is None and a problem."""

    def examine(self) -> Mapping[int, tuple[Problem, ...] | None]:
        """What is looked at when it is asked for alone, by the rule that it concerns; None: could not tell."""

    def cold(self, tell: Tell) -> None:
        """Empty the cache and drop page caches; verified. Raises HatcheryError when it cannot be shown."""

    def drives(self) -> Mapping[str, bool]:
        """The drives of the settings, and whether each answers."""

    def remember_loss(self) -> None:
        """Leave word for the next start when the cache died; cheap if it did not. Raises HatcheryError."""

    def heal(self) -> None:
        """Take back what came back, where no decision is needed: legs, cache, settings. Raises HatcheryError."""

    def finish_growth(self) -> None:
        """Give the pool the space of a backend that grew, once there is any; cheap if not. Raises HatcheryError."""

    def release_reserve(self) -> int:
        """Give the durable pool what is held back from it; the bytes that it gained. Raises NotReady, Unhealthy."""

    def counters(self, clones: Mapping[int, str]) -> Counters:
        """All counters now; ``clones`` are the names of active clones by thin id."""

    def flow(self) -> Callable[[], tuple[int, int]]:
        """What tells, cheaply, the bytes read from the backend and the bytes written to the cache so far.

        It is for the devices that are there now: it raises CannotTell when they have gone. Raises NotReady.
        """

    def guest_requests(self) -> int:
        """How many requests of guests are under way at this moment, of all clones. Cheap."""

    def count_latencies(self) -> None:
        """Look at how long the disks have taken since the last look; cheap. Raises CannotTell."""

    def disk_latencies(self) -> Mapping[str, Histogram]:
        """What those looks found, by the kernel's names of whole disks: each request as the mean of its look."""

    def exported(self, thin_id: int) -> tuple[str, int] | None:
        """The device that a clone is exported by, ``MAJOR:MINOR``, and bytes read from it so far; None without one."""

    def clone_latencies(self, thin_id: int) -> Histogram:
        """Latencies of an active clone's requests since it was activated. Raises NotFound, CannotTell."""

    def disk_roles(self) -> Mapping[str, Literal["cache", "backend"]]:
        """What each whole disk is for, by its kernel name."""


class Tracer(Protocol):
    """See ``appliance.host.trace.Tracer``."""

    def check(self) -> None:
        """Raise NotReady where requests cannot be recorded at all."""

    def watch(self, devices: Collection[str]) -> None:
        """Record the requests of these devices from now on, and of no others."""

    def read(self) -> Batch:
        """What came since the last look; does not wait."""

    def close(self) -> None:
        """Stop, and give the buffers back."""


@dataclass(frozen=True, slots=True)
class CacheWatch:
    """What prefetching asks the store: see ``Store.flow`` and ``Store.guest_requests``, and ``Measure.cold_marks``."""

    flow: Callable[[], Callable[[], tuple[int, int]]]
    guests: Callable[[], int]
    cold_marks: Callable[[], int]
