"""The page of an appliance that has some of everything, and a browser."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.appliance import Shown, shown
from tests.page.browser import Browser, Tab, chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser") / "profile"
    folder.mkdir()
    with chromium(folder) as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    made = browser.tab()
    yield made
    browser.close(made)


@pytest.fixture(scope="session")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with shown(tmp_path_factory.mktemp("appliance")) as made:
        yield made


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: HATCHERY_SCREENSHOTS, to look at them afterwards."""
    folder = Path(os.environ.get("HATCHERY_SCREENSHOTS", tmp_path))
    folder.mkdir(exist_ok=True)
    return folder
