"""Fixtures of the kernel tier: ``lab`` (booted, empty disks) and ``store`` (the store set up on them and running)."""

import fcntl
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import folders, requirements
from tests.kernel.inside import setup
from tests.kernel.lab import Lab, Options
from tests.tier import require

_COMMON = pytest.StashKey[Path]()
_AT_THE_END = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """End on SIGTERM as on Ctrl-C, so that fixtures clean up. Who begins the run owns a folder for all its workers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told: str | None = getattr(config, "workerinput", {}).get("common")
    config.stash[_AT_THE_END] = ExitStack()
    config.stash[_COMMON] = Path(told) if told else config.stash[_AT_THE_END].enter_context(folders.scratch())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where that folder is."""
    node.workerinput["common"] = str(node.config.stash[_COMMON])


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_AT_THE_END].close()


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
def prepared(tree: Path, pytestconfig: pytest.Config) -> Path:
    """Disks that the product's own setup made, in sync and shut down cleanly; copied for each test.

    Whichever worker needs them first makes them for all.
    """
    saved = pytestconfig.stash[_COMMON] / "prepared"
    with saved.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not saved.exists():
            with Lab(tree, Options()) as lab:
                lab.call(setup.everything, timeout=240)
                lab.call(setup.in_sync, timeout=240)
                lab.run(["hatchery-store", "down"])
                lab.poweroff()
                lab.save(saved.with_suffix(".part")).rename(saved)
    return saved


@pytest.fixture
def store(tree: Path, prepared: Path) -> Iterator[Lab]:
    with Lab(tree, prepared=prepared) as booted:
        booted.run(["hatchery-store", "up"])
        yield booted
