"""The devices of a template that is cloned already while another server still has a part of it.

hatchery-template-ID   linear, read-only: what clones show. It stays when all is in, with the table of a sealed one.
hatchery-fetching-ID   the template's thin volume, its external origin the source: what is not in the volume is read
                       there. What was fetched is written here; a block that was written is never asked of the
                       source again, also after a power cut, since the pool's metadata says which those are.
hatchery-source-ID     linear over the kernel's NBD device; a table of errors while there is none, so that nobody
                       reads zeros, or something old, in place of what could not be had.
"""

import os
from collections.abc import Callable
from pathlib import Path

from appliance.errors import NotReady
from appliance.host.dm import Dm, Target
from appliance.model import Access
from appliance.store import names
from appliance.store.names import Layer

_CLOSE_DEADLINE = 3.0

Thin = Callable[[Path | None], Target]
"""The table of the template's thin volume over an external origin."""


def activate(dm: Dm, thin_id: int, thin: Thin) -> Path:
    """Make those of the devices that are missing, from below; the one to write to.

    Raises NotFound when the pool has no such volume, InUse.
    """
    source, fetching, template = (
        names.layer(layer, thin_id) for layer in (Layer.SOURCE, Layer.FETCHING, Layer.TEMPLATE)
    )
    length = thin(None).length
    if dm.find(source) is None:
        dm.create(source, names.uuid(source), [Target(0, length, "error", "")], access=Access.READ_ONLY)
    if dm.find(fetching) is None:
        dm.create(fetching, names.uuid(fetching), [thin(dm.path(source))])
    info = dm.find(template)
    if info is not None and not (info.read_only and [line.kind for line in dm.table(template)] == ["linear"]):
        dm.remove(template, deadline=_CLOSE_DEADLINE)
        info = None
    if info is None:
        table = Target(0, length, "linear", f"{dm.path(fetching)} 0")
        dm.create(template, names.uuid(template), [table], access=Access.READ_ONLY)
    for name in (source, fetching, template):
        if dm.info(name).suspended:  # whoever exchanged its table died meanwhile
            dm.resume(name)
    return dm.path(fetching)


def show_source(dm: Dm, thin_id: int, device: Path | None) -> None:
    """Read what is not in the volume from ``device`` from now on, or get errors from none. Raises NotFound."""
    name = names.layer(Layer.SOURCE, thin_id)
    (line,) = dm.table(name)
    if device is None:
        if line.kind != "error":
            dm.reload(name, [Target(0, line.length, "error", "")], access=Access.READ_ONLY)
        return
    number = device.stat().st_rdev
    if line.kind == "linear" and line.params.split()[0] == f"{os.major(number)}:{os.minor(number)}":
        return
    dm.reload(name, [Target(0, line.length, "linear", f"{device} 0")], access=Access.READ_ONLY)


def shown(dm: Dm, thin_id: int) -> Path:
    """The device that clones show. Raises NotReady when it is not there."""
    name = names.layer(Layer.TEMPLATE, thin_id)
    if dm.find(name) is None or dm.find(names.layer(Layer.FETCHING, thin_id)) is None:
        raise NotReady(
            f"/dev/mapper/{name} is not there",
            why="its template is still being fetched, and has no devices",
            hint="see `hatchery status`; `hatchery store reconcile` makes them",
        )
    return dm.path(name)


def seal(dm: Dm, thin_id: int, table: Target) -> Path | None:
    """Give the template's device the table of a sealed one, whoever reads it; None when it is not being fetched.

    What it was fetched by goes. Raises NotFound, InUse.
    """
    below = [names.layer(layer, thin_id) for layer in (Layer.FETCHING, Layer.SOURCE)]
    found = [name for name in below if dm.find(name) is not None]
    if not found:
        return None
    template = names.layer(Layer.TEMPLATE, thin_id)
    if dm.find(template) is not None:
        dm.reload(template, [table], access=Access.READ_ONLY)
    else:
        dm.create(template, names.uuid(template), [table], access=Access.READ_ONLY)
    for name in found:
        dm.remove(name, deadline=_CLOSE_DEADLINE)
    return dm.path(template)
