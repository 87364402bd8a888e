"""Options of all tiers: how much is run. ``script/test --all`` and ``script/test TIER -- --count 300`` hand them on."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", dest="run_all", help="the heavy variants too")
    parser.addoption("--count", type=int, default=0, help="how many rounds a randomised test makes (0: the usual)")
    parser.addoption("--seed", type=int, default=0, help="where a randomised test begins")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: runs with --all only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave heavy tests out, unless all are wanted: deselected, not skipped, for a skip in CI is a failure."""
    if config.getoption("run_all"):
        return
    heavy = [item for item in items if item.get_closest_marker("heavy")]
    if heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]
