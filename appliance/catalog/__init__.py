"""The catalog: what exists and why. The only SQL of the project is in this package."""

from appliance.catalog.catalog import Catalog
from appliance.catalog.rows import (
    AuthorityRow,
    BootRun,
    Certificate,
    Client,
    Clone,
    Garbage,
    NewClone,
    NewSeed,
    NewTemplate,
    Open,
    PoolRow,
    Staging,
    StoredBootSet,
    StoredSeed,
    Template,
)

__all__ = [
    "AuthorityRow",
    "BootRun",
    "Catalog",
    "Certificate",
    "Client",
    "Clone",
    "Garbage",
    "NewClone",
    "NewSeed",
    "NewTemplate",
    "Open",
    "PoolRow",
    "Staging",
    "StoredBootSet",
    "StoredSeed",
    "Template",
]
