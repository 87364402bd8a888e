"""The boots that were recorded of a template, handed out as traces: to be replayed, here or elsewhere."""

import time

from appliance.bootset.trace import format_trace, parse_trace
from appliance.catalog import Catalog
from appliance.errors import NotFound
from appliance.model import TemplateRef


def trace(catalog: Catalog, text: str, boot: int = 1) -> str:
    """A recorded boot of a template as a trace; ``boot`` 1 is the last one, 2 the one before.

    Raises InvalidInput, NotFound.
    """
    template = catalog.template(TemplateRef.parse(text))
    runs = catalog.boot_runs(template.thin_id)
    if not 1 <= boot <= len(runs):
        raise NotFound(
            f"there is no recorded boot {boot} of template {template.ref}",
            why=f"{len(runs)} of its boots are kept",
            hint=f"`hatchery template learn {template.ref}` records the next ones",
        )
    run = runs[-boot]
    recorded = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.recorded))
    about = (
        f"Reads of one boot of {template.ref} ({template.size:,}-byte disk) by clone {run.clone}, recorded {recorded},"
        " in order: byte offset, byte length, microseconds"
    )
    return format_trace(parse_trace(run.trace), about)
