"""Clones."""

from pydantic import Field

from appliance.model import CloneKind, CloneState
from appliance.schema.base import LOCAL_CLIENT, Model


class CloneCreate(Model):
    """Clones to make: NAME, or with ``count`` NAME-1 to NAME-COUNT: all of them or none."""

    name: str
    template: str = Field(description="NAME or NAME@VERSION")
    count: int | None = Field(default=None, ge=1, le=1000)
    client: str | None = Field(default=LOCAL_CLIENT, description="Who may attach it; None: nobody yet")


class CloneView(Model):
    """A clone, and how to reach it."""

    name: str
    template: str = Field(description="NAME@VERSION")
    kind: CloneKind
    state: CloneState
    size: int
    created: float
    client: str | None = Field(description="The client it is exported to; None: detached")
    uri: str | None = Field(description="NBD URI; None while detached")
    qemu: tuple[str, ...] = Field(description="QEMU command line words for this disk (-blockdev and -device)")
    device: str = Field(description="Its block device on the appliance; exists while it is attached")
    mapped_bytes: int | None = Field(description="Blocks mapped, those shared with the template included")
    written_bytes: int | None = Field(description="Written by its guest since the clone was activated")


class CloneList(Model):
    """Clones by name."""

    clones: tuple[CloneView, ...]


class Attachment(Model):
    """The client that a clone is exported to."""

    client: str
