"""What the service needs of the store: the real one in the appliance, a model of it in unit tests.

Sizes are bytes. Errors are those of ``appliance.errors``, raised as the docstrings say.
"""

from pathlib import Path
from typing import Protocol

from appliance.model import Access


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


class Pool(Protocol):
    """The durable pool."""

    def status(self) -> PoolNumbers:
        """Its state now."""

    def create_thin(self, thin_id: int) -> None:
        """Make an empty volume. Raises AlreadyExists."""

    def create_snapshot(self, thin_id: int, origin: int) -> None:
        """Make a snapshot of a sealed volume. Raises AlreadyExists, NotFound."""

    def delete(self, thin_id: int) -> None:
        """Remove an inactive volume and free its blocks. Raises NotFound, InUse."""

    def exists(self, thin_id: int) -> bool:
        """Whether the pool has the volume, by looking."""

    def set_transaction_id(self, old: int, new: int) -> None:
        """Compare and swap. Raises Unhealthy when the pool's number is not ``old``."""

    def thin_ids(self) -> frozenset[int]:
        """All volumes that the pool has. Slow."""

    def activate_template(self, thin_id: int, size: int, access: Access) -> Path:
        """Make a template's device, or change its access."""

    def activate_staging(self, thin_id: int, size: int) -> Path:
        """Make a staging volume's device."""

    def activate_clone(self, thin_id: int, size: int) -> Path:
        """Make a clone's device with its retry layer."""

    def deactivate(self, thin_id: int) -> None:
        """Remove the volume's devices; fine when there are none. Raises InUse."""

    def mapped_bytes(self, thin_id: int) -> int:
        """Bytes mapped in an active volume. Raises NotFound when it is not active."""
