"""The store, and the appliance in one look."""

from typing import Self

from pydantic import Field

from appliance.model import Health, Problem
from appliance.schema.base import Model
from appliance.schema.clients import ClientView
from appliance.schema.gc import GivenBack
from appliance.schema.measure import DiskHistogram

PARTS = (
    *("backend", "meta", "cache", "durable", "fast", "backup", "drive"),
    *("volumes", "sharing", "fetch", "client", "certificate"),
)
"""What a problem may be about: arrays, cache, pools and drives of the store; then what is made of them."""


class ProblemView(Model):
    """Something an operator should know."""

    severity: Health
    what: str
    hint: str = ""
    part: str = Field(default="", description=f"What it is about: {', '.join(PARTS)}; empty: something else")
    rule: int | None = Field(default=None, description="Of the data path's rules; None: none of them")

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """As it goes over the API."""
        return cls(
            severity=problem.severity, what=problem.what, hint=problem.hint, part=problem.part, rule=problem.rule
        )


class MemberView(Model):
    """A member of an array."""

    device: str
    state: str


class ArrayView(Model):
    """An md array: the backend, or the metadata mirror."""

    health: Health
    name: str
    level: str
    state: str
    size: int
    sync_action: str = Field(description="idle, resync, recover, check, ...")
    sync_percent: float | None = Field(description="None when nothing is being synchronised")
    members: tuple[MemberView, ...]
    missing: int = Field(default=0, description="Members that are not there, or that do not have all data yet")


class CacheView(Model):
    """The cache over the backend."""

    health: Health
    attached: bool
    mode: str
    size: int
    settings_ok: bool = Field(description="Whether the settings of rule 1 were read back as set")
    bypassed_bytes: int = Field(description="Must not grow (rule 1)")
    available_percent: int | None = Field(description="Cache space without dirty data; None while not attached")


class PoolView(Model):
    """A thin pool: ``durable`` or ``fast``."""

    health: Health
    name: str
    mode: str
    data_used: int
    data_total: int
    metadata_used: int
    metadata_total: int
    block_bytes: int
    transaction_id: int
    reserve_bytes: int = Field(default=0, description="Held back from the pool until an operator releases it")


class ReserveReleased(Model):
    """What the durable pool gained (0 when there was no reserve any more), and how much it has now."""

    gained_bytes: int
    data_total: int


class StoreView(Model):
    """The kernel stack. A part that could not be read is None, and ``Status.problems`` says why.

    ``pool`` is the durable pool, ``fast`` the one of ephemeral clones: None also where there is none.
    """

    backend: ArrayView | None
    meta: ArrayView | None
    cache: CacheView | None
    pool: PoolView | None
    fast: PoolView | None = None
    last_backup: float | None = Field(
        default=None, description="When the last whole backup of metadata and catalog was made; None before the first"
    )


class Status(Model):
    """The appliance in one look. ``health`` is the worst of its parts."""

    version: str
    kernel: str
    health: Health
    problems: tuple[ProblemView, ...]
    store: StoreView
    disks: tuple[DiskHistogram, ...] = Field(
        default=(), description="Since the service began; each request is counted as the mean of its few seconds"
    )
    clients: tuple[ClientView, ...]
    templates: int
    clones: int
    given_back: GivenBack = GivenBack()


class StepView(Model):
    """A step of a plan, in words."""

    action: str
    target: str
    detail: str = ""


class Reconciliation(Model):
    """What is done, or would be, so that the kernel's volumes match the catalog; and what cannot be put right so."""

    steps: tuple[StepView, ...]
    problems: tuple[ProblemView, ...]
