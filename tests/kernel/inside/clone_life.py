"""Verbs on clones and templates through the API, and what the kernel has afterwards."""

from appliance import schema
from appliance.client import connect
from appliance.host.dm import Dm
from appliance.model import CloneKind
from appliance.store.names import parse_layer
from appliance.store.pool import Pool


def reset(name: str, force: bool = False) -> dict[str, object]:
    """Give a clone its template's content again."""
    with connect() as client:
        return client.reset_clone(name, force=force).model_dump(mode="json")


def resize(name: str, size: int) -> dict[str, object]:
    """Make a clone larger."""
    with connect() as client:
        return client.resize_clone(name, size).model_dump(mode="json")


def promote(name: str, template: str | None = None) -> dict[str, object]:
    """Make a template version of a clone, and wait."""
    with connect() as client:
        done = client.finish(client.promote_clone(name, template), deadline=60)
        return client.template(done.subject).model_dump(mode="json")


def ephemeral(name: str, template: str) -> str:
    """Make an ephemeral clone; its device."""
    with connect() as client:
        wanted = schema.CloneCreate(name=name, template=template, kind=CloneKind.EPHEMERAL)
        return client.create_clones(wanted)[0].device


def lease(name: str, seconds: float | None) -> float | None:
    """Say how long a clone stays; when that is over."""
    with connect() as client:
        return client.renew_clone(name, seconds).expires


def remove_template(ref: str, when_unused: bool = False) -> dict[str, object]:
    """Remove a template version."""
    with connect() as client:
        return client.remove_template(ref, when_unused=when_unused).model_dump(mode="json")


def templates() -> list[str]:
    """All template versions."""
    with connect() as client:
        return [view.ref for view in client.templates()]


def remove_all() -> int:
    """Remove all clones; how many there were."""
    with connect() as client:
        names = [view.name for view in client.clones()]
        for name in names:
            client.remove_clone(name)
        return len(names)


def plan() -> dict[str, object]:
    """What a reconciliation would do."""
    with connect() as client:
        return client.plan().model_dump(mode="json")


def clone_devices() -> int:
    """How many clones have a device."""
    found = (parse_layer(entry.name) for entry in Dm().list())
    return len({layer[1] for layer in found if layer is not None and layer[0] in ("clone", "thin", "ephemeral")})


def transaction() -> int:
    """The durable pool's transaction id."""
    return Pool.open(Dm(), "durable").status().transaction_id
