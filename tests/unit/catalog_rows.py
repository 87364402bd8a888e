"""Rows that tests of the catalog begin with."""

from appliance.catalog import Catalog, NewTemplate
from appliance.model import ImageFormat


def template(name: str) -> NewTemplate:
    return NewTemplate(name, ImageFormat.RAW, "upload", 1.5)


def ready(catalog: Catalog, name: str = "debian") -> int:
    thin_id = catalog.add_template(template(name)).thin_id
    catalog.finish_template(thin_id, 4096, "0" * 64)
    return thin_id
