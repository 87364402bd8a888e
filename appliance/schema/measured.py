"""Boots that were measured somewhere, kept with the template whose clones booted."""

from typing import Literal

from pydantic import Field

from appliance.schema.base import Model

MeasuredPhase = Literal["cold", "prefetched", "warm"]
"""How the cache was when a boot began."""


class BootTimes(Model):
    """All boots of one phase. Times in seconds; bytes are means of a boot."""

    phase: MeasuredPhase
    boots: int = Field(ge=1)
    seconds_least: float = Field(ge=0)
    seconds_median: float = Field(ge=0)
    seconds_most: float = Field(ge=0)
    io_seconds: float | None = Field(default=None, ge=0, description="The median wait for storage; None if not known")
    read_bytes: float = Field(ge=0)
    backend_bytes: float = Field(ge=0)
    hit_ratio: float = Field(ge=0, le=1, description="Share of the bytes that did not need the backend")


class Measured(Model):
    """What a measurement of boots came to."""

    on: str = Field(default="", max_length=300, description="The machine that the guests ran on, in words")
    phases: tuple[BootTimes, ...] = Field(min_length=1, max_length=3)


class MeasurementView(Model):
    """A measurement of a template's boots."""

    template: str = Field(description="Its reference")
    taken: float
    on: str
    phases: tuple[BootTimes, ...]


class MeasurementList(Model):
    """The last measurements of all templates that there are, newest first."""

    measurements: tuple[MeasurementView, ...]
