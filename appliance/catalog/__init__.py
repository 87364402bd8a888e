"""The catalog: what exists and why. The only SQL of the project is in this package."""

from appliance.catalog.catalog import Catalog
from appliance.catalog.rows import (
    BootRun,
    Certificate,
    Client,
    Clone,
    Garbage,
    NewClone,
    NewTemplate,
    Open,
    PoolRow,
    Staging,
    StoredBootSet,
    Template,
)

__all__ = [
    "BootRun",
    "Catalog",
    "Certificate",
    "Client",
    "Clone",
    "Garbage",
    "NewClone",
    "NewTemplate",
    "Open",
    "PoolRow",
    "Staging",
    "StoredBootSet",
    "Template",
]
