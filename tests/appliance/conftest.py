"""One appliance for the whole session: it boots, is deployed, and lives through everything the tests do to it.

The tests of test_life.py are steps of one story and run in their order; each says in its arguments what must have
happened before.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.errors import HatcheryError
from appliance.measure import qemu
from appliance.measure.guest import EMULATOR_FAULTS
from appliance.measure.serial import MachineFault
from appliance.run import Runner
from bench.drives import Drive
from bench.vm import VM, Hardware, Key
from tests.appliance.crash import EMULATOR, Crash, Verdict, crash
from tests.appliance.site import DISKS, NBD_PORT, NVME, NVME_TCP_PORT, ROOT, SECOND_PORT, Play, Site
from tests.tier import require

BOOT_DEADLINE = 600.0
_running: list[Site] = []
_verdict = Verdict()


def pytest_configure() -> None:
    """End on SIGTERM as on Ctrl-C, so that fixtures clean up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for site in _running:
            look(site)
            try:
                report.sections.append(("the appliance", site.report()))
            except HatcheryError as error:
                report.sections.append(("the appliance", f"cannot be asked: {error}"))
        raised = call.excinfo.value if call.excinfo else None
        if isinstance(raised, MachineFault) and raised.fault in EMULATOR_FAULTS:
            _verdict.crashed(Crash(f"{raised.what}: {raised.why}", emulator=True))
        _verdict.failure()
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tell by the exit status that nothing failed before the emulator had crashed a machine."""
    if exitstatus == pytest.ExitCode.TESTS_FAILED and _verdict.excused:
        session.exitstatus = EMULATOR


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say last, where a cut log still has it, what a kernel said as it crashed."""
    for found in _verdict.crashes:
        terminalreporter.section("a machine crashed")
        terminalreporter.line(found.words)


def look(site: Site) -> None:
    """Note a crash of a machine that runs, if there was one."""
    found = crash(site.vm.machine.console.text) if site.vm.running else None
    if found is not None:
        _verdict.crashed(found)


def image(kind: str) -> Path:
    """An image: the file that HATCHERY_KIND_IMAGE names, or else built, unless it is there already."""
    if given := os.environ.get(f"HATCHERY_{kind.upper()}_IMAGE"):
        return Path(given)
    done = Runner().run([ROOT / "script/image", kind], timeout=1800)
    return Path(done.stdout.strip().splitlines()[-1])


@contextmanager
def booted(
    drives: Sequence[Drive] = (NVME, *DISKS), system_on: Drive | None = None, *, crashes: bool = False
) -> Iterator[Site]:
    """A booted appliance with empty drives; root can log in. ``system_on`` as for VM. ``crashes``: on purpose."""
    require(shutil.which(qemu.QEMU), f"{qemu.QEMU} is needed: run script/bootstrap")
    require(Path(sys.executable).with_name("ansible-playbook").exists(), "Ansible is needed: run script/bootstrap")
    guest, appliance = image("guest"), image("appliance")
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    runner = Runner()
    try:
        with VM(
            folder=folder,
            system=appliance,
            drives=drives,
            key=Key.create(folder, runner),
            runner=runner,
            hardware=Hardware(memory_mib=2048, cpus=2),
            forwards=(NBD_PORT, SECOND_PORT, NVME_TCP_PORT),
            system_on=system_on,
        ) as vm:
            made = Site(vm, guest.with_name("guest.qcow2"), runner)
            vm.start()
            _running.append(made)
            try:
                vm.wait_ssh(deadline=BOOT_DEADLINE)
                yield made
            finally:
                # A fixture that fails has ended its machine before anybody hears of it.
                if not crashes:
                    look(made)
                _running.remove(made)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The appliance that the whole session is about."""
    with booted() as made:
        yield made


@pytest.fixture(scope="session")
def deployed(site: Site) -> Play:
    """The playbook's run on it, after which it serves. The second disk may be wiped: it holds a file system."""
    return site.play(backend_raid_wipe=True, backend_raid_wipe_serials=[DISKS[1].serial])
