"""The catalog: what exists and why. The only SQL of the project is in this package."""

from appliance.catalog.catalog import Catalog
from appliance.catalog.rows import (
    Client,
    Clone,
    Garbage,
    NewClone,
    NewTemplate,
    Open,
    PoolRow,
    Staging,
    Template,
)

__all__ = [
    "Catalog",
    "Client",
    "Clone",
    "Garbage",
    "NewClone",
    "NewTemplate",
    "Open",
    "PoolRow",
    "Staging",
    "Template",
]
