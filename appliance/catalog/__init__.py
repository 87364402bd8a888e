"""The catalog: what exists and why. The only SQL of the project is in this package."""

from appliance.catalog.catalog import Catalog
from appliance.catalog.rows import Client, Clone, NewClone, NewTemplate, Open, Staging, Template

__all__ = ["Catalog", "Client", "Clone", "NewClone", "NewTemplate", "Open", "Staging", "Template"]
