"""Boot sets of templates, and how far they are in the cache."""

from typing import Literal

from pydantic import Field

from appliance.schema.base import Model


class PrefetchView(Model):
    """The last prefetch of a template: what for, how far, and what it cost."""

    state: Literal["waiting", "running", "warm", "incomplete", "failed", "stopped"] = Field(
        description="incomplete: boots need the backend for some of it; stopped: by an emptying of the cache, or an end"
    )
    why: str = Field(description="What it was begun for, in words")
    total_bytes: int
    done_bytes: int = Field(default=0, description="Of the present pass")
    passes: int = 0
    backend_bytes: int = Field(
        default=0, description="What the backend had to read in all passes, guests' reads included"
    )
    held_bytes: int | None = Field(
        default=None,
        description="What the template has of what was to be read, holes left out: so much must come from the backend"
        " where the cache has nothing; None before the end, and where it is not known",
    )
    left_bytes: int = Field(default=0, description="What may not be in the cache, at most")
    seconds: float = 0.0
    rate: int = Field(default=0, description="Bytes a second of the present pass; 0 when none runs")
    began: float


class BootSetSummary(Model):
    """A boot set without its extents."""

    total_bytes: int
    extents: int
    runs: int = Field(description="How many recorded boots it was made of")
    guessed: bool = Field(description="Learned from other content: an older version, or another template")
    changed: float
    wasted_bytes: int | None = Field(
        description="Of the set, what boots that were recorded to judge it did not read, in the median; before the"
        " first, what those that it was made of did not read, on average; None without any"
    )
    judged: int = Field(
        default=0, description="How many boots were recorded, about one a day, to judge the set, of the last 5"
    )


class BootSetView(BootSetSummary):
    """What to read before a template's clones boot."""

    template: str = Field(description="NAME@VERSION")
    sha256: str | None = Field(description="Of the content that it was learned from, if known")
    size: int = Field(description="Of the template, in bytes")
    places: tuple[tuple[int, int], ...] = Field(description="Offset and length in bytes, in the order of first reads")
    picture: str = Field(description="Where they lie on the disk, as lines of shaded cells")
