"""The files, and what they should hold."""

import json
from functools import cache
from pathlib import Path

from appliance.api.app import make_app
from appliance.service.service import Service
from reference import manual, programs, tables

ROOT = Path(__file__).resolve().parents[3]


@cache
def made() -> dict[Path, str]:
    """Every file that is made from the code, with its text."""
    pages = {**manual.pages(), **programs.pages()}
    docs = {"openapi.json": openapi(), "metrics.md": tables.metrics_page(), "settings.md": tables.settings_page()}
    return {
        **{ROOT / "docs" / name: text for name, text in docs.items()},
        **{ROOT / "docs/man" / name: text for name, text in pages.items()},
    }


def openapi() -> str:
    """The API's description. Its keys are sorted: releases of the libraries differ in their order."""
    # To be described, a service need not run: the routes only keep it.
    app = make_app(Service.__new__(Service))
    return json.dumps(app.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
