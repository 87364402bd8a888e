"""What the collector sees: the volumes of all pools, and what each would give back."""

from typing import Literal

from pydantic import Field

from appliance.model import PoolName
from appliance.schema.base import Model

VolumeState = Literal["serving", "held", "pending", "orphaned", "missing"]


class VolumeView(Model):
    """A volume of a pool. Bytes are None when the pool has none of that id."""

    thin_id: int
    pool: PoolName
    state: VolumeState
    why: str = Field(description="Whose it is, or why it goes")
    reclaimed: bool = Field(description="Whether a collection gives it back")
    mapped_bytes: int | None = Field(description="Blocks shared with others included")
    exclusive_bytes: int | None = Field(description="What comes back when it goes and no other")


class GarbageReport(Model):
    """All volumes, and the sum of what those that go have for themselves; what they share only comes on top."""

    volumes: tuple[VolumeView, ...]
    reclaimable_bytes: int


class GivenBack(Model):
    """What was given back since the service began."""

    volumes: int = 0
    bytes: int = Field(default=0, description="What they mapped; of that, what other volumes share stays in use")
    leases: int = Field(default=0, description="Clones that were removed because their lease ended")
    waiting: int = Field(default=0, description="Volumes that are to be given back, now")
