"""Fixtures of the kernel tier: ``lab`` (booted, empty disks) and ``store`` (the store set up on them and running)."""

import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.kernel import folders, requirements
from tests.kernel.inside import setup
from tests.kernel.lab import Lab, Options
from tests.tier import require


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C, so that fixtures clean up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for lab in Lab.running:
            report.sections.append((f"console of the lab {lab.folder.name}", lab.console_tail()))
    return report


@pytest.fixture(scope="session")
def tree() -> Path:
    reason = requirements.unmet()
    require(not reason, reason)
    return requirements.tree()


@pytest.fixture
def lab(tree: Path) -> Iterator[Lab]:
    with Lab(tree) as booted:
        yield booted


@pytest.fixture(scope="session")
def prepared(tree: Path) -> Iterator[Path]:
    """Disks that the product's own setup made, in sync and shut down cleanly; copied for each test."""
    with folders.scratch() as folder:
        with Lab(tree, Options()) as lab:
            lab.call(setup.everything, timeout=240)
            lab.call(setup.in_sync, timeout=240)
            lab.run(["hatchery-store", "down"])
            lab.poweroff()
            saved = lab.save(folder / "prepared")
        yield saved


@pytest.fixture
def store(tree: Path, prepared: Path) -> Iterator[Lab]:
    with Lab(tree, prepared=prepared) as booted:
        booted.run(["hatchery-store", "up"])
        yield booted
