"""The device that a clone is offered by."""

from pathlib import Path

from appliance.catalog import Clone
from appliance.model import CloneKind
from appliance.store import names


def device_of(clone: Clone) -> Path:
    """A clone's device; there while it is attached."""
    return device(clone.kind, clone.thin_id)


def device(kind: CloneKind, thin_id: int) -> Path:
    """As ``device_of``. An ephemeral clone's drive is its only copy, so it has no retry layer."""
    layer = names.Layer.CLONE if kind is CloneKind.DURABLE else names.Layer.EPHEMERAL
    return Path("/dev/mapper") / names.layer(layer, thin_id)
