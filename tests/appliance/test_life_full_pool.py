"""A full pool pauses its guests, loses nothing, and lets them go on when the reserve is released (rule 4).

Runs after test_life.py, whose first tests need an appliance that was not deployed yet.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.host.qmp import Qmp
from appliance.measure import guest, qemu
from appliance.measure.qemu import Machine
from appliance.schema import CloneCreate, CloneView
from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.site import CLIENT, NBD_PORT, TEMPLATE, Play, Shell, Site

MIB = 1 << 20
LEFT = 24 * MIB
"""What the ballast leaves of the pool."""

THIRST_MIB = 96
"""What the guest then writes: more than is left, less than that and the reserve."""

WORDS = "written before the pool was full"


@contextmanager
def running(site: Site, clone: str) -> Iterator[tuple[Machine, Path]]:
    """A guest at its login prompt, and the socket of its control protocol."""
    target = guest.NbdTarget(clone, host=LOOPBACK, port=site.vm.port(NBD_PORT))
    with tempfile.TemporaryDirectory(prefix="hatchery-guest-") as name:
        folder = Path(name)
        control = folder / "qmp.sock"
        words = [
            *guest.arguments(target, guest.Hardware(), qemu.accelerator(), qemu.firmware(folder)),
            *("-qmp", f"unix:{control},server=on,wait=off"),
        ]
        with qemu.start(site.runner, words, folder, clock=time.monotonic()) as machine:
            machine.console.wait_for(guest.PROMPT, deadline=400, faults=guest.FAULTS)
            yield machine, control


def status(control: Path) -> str:
    """What QEMU says of the guest: ``running``, or ``io-error`` when it was paused by a write that failed."""
    with Qmp(control) as qmp:
        return str(qmp.execute("query-status")["status"])


def fill(site: Site) -> list[str]:
    """Fill the pool but for LEFT with clones that are written on the appliance; their names."""
    made: list[str] = []
    while True:
        with site.api() as api:
            pool = api.status().store.pool
            assert pool is not None
            missing = pool.data_total - pool.data_used - LEFT
            if missing < MIB:
                return made
            view: CloneView = api.create_clones(CloneCreate(name=f"ballast-{len(made)}", template=TEMPLATE))[0]
        made.append(view.name)
        count = min(missing, view.size) // MIB
        words = ["dd", "if=/dev/zero", f"of={view.device}", "bs=1M", f"count={count}", "oflag=direct"]
        site.vm.ssh(words, timeout=900)


@pytest.mark.heavy
def test_a_full_pool_pauses_a_guest_and_the_reserve_lets_it_go_on(site: Site, deployed: Play) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)
    with site.commands() as hatchery:
        before = hatchery.get("status")["store"]["pool"]
        assert before["reserve_bytes"] > (THIRST_MIB * MIB - LEFT) * 5 // 4
        hatchery.get("clone", "create", "thirsty", "--template", TEMPLATE, "--client", CLIENT)
    ballast: list[str] = []
    try:
        with running(site, "thirsty") as (machine, control):
            shell = Shell(machine)
            shell.run(f"echo '{WORDS}' > before && sync")
            ballast = fill(site)
            drink = f"dd if=/dev/zero of=thirst bs=1M count={THIRST_MIB} conv=fsync; echo ended $? > outcome"
            shell.run(f"(nohup sh -c '{drink}' > /dev/null 2>&1 &) ; true")
            until(lambda: status(control) == "io-error", "the guest to be paused", deadline=300, interval=1)
            with site.commands() as hatchery:
                shown = hatchery.get("status")
                assert any("is full" in problem["what"] for problem in shown["problems"]), shown["problems"]
                released = hatchery.get("store", "reserve", "release")
                assert released["gained_bytes"] == before["reserve_bytes"]
            with Qmp(control) as qmp:
                qmp.execute("cont")
            said = shell.run("while ! test -s outcome; do sleep 1; done; cat outcome before", deadline=400)
            assert "ended 0" in said
            assert WORDS in said
            assert status(control) == "running"
    finally:
        with site.commands() as hatchery:
            for name in ("thirsty", *ballast):
                hatchery.run("clone", "remove", name, "--force")
    with site.commands() as hatchery:
        hatchery.get("gc")
        after = hatchery.get("status")
    assert after["health"] == "ok", after["problems"]
    assert after["store"]["pool"]["data_used"] == before["data_used"]
