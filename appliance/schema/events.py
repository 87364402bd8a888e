"""What changes, as it changes."""

from typing import Literal

from pydantic import Field

from appliance.schema.base import Model

EventKind = Literal["operation", "clone", "template", "problem", "reset"]

HEARTBEAT = 15.0
"""Seconds after which a stream in which nothing happens shows that it lives."""


class Event(Model):
    """Something changed. ``reset``: some events are missing here, so look at everything anew."""

    id: str = Field(description="To be sent as Last-Event-ID, to go on after it")
    time: float
    kind: EventKind
    subject: str = Field(description="A clone, a template's NAME@VERSION, an operation's id; `store` of a problem")
    state: str = Field(
        description="Of an operation: running, succeeded, failed. Of a clone: ready, attached, detached, moved, reset,"
        " resized, renewed, seeded, unseeded, lost, removed. Of a template: importing, ready, learned, retired, failed,"
        " removed. Of a problem: degraded, failed, ok when it is over. There may be more in a later release"
    )
    words: str = Field(default="", description="More of it, for people")
