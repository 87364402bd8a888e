"""Every module can be imported: a file that was forgotten is noticed before programs are started."""

import importlib

import pytest

from tests.lint.files import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "appliance").rglob("*.py")
)


@pytest.mark.parametrize("module", MODULES)
def test_it_can_be_imported(module: str) -> None:
    importlib.import_module(module)
