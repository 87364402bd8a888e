"""How long a deployed appliance takes from power-on to its first export, and how much of that is Hatchery's own.

Runs after test_life.py, whose first tests need an appliance that was not deployed yet.
"""

import socket
import struct
import time

import pytest

from appliance.schema import CloneCreate
from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import CLIENT, NBD_PORT, TEMPLATE, Play, Site
from tests.appliance.stack import at_rest
from tests.appliance.users import serves

EXPORT = "early"
OURS_AT_MOST = 0.25
"""Share of the time from power-on to the first export that is meant to be ours: told, as times are not asserted."""

ANSWER = 5.0
"""Seconds after which a connection is given up: QEMU takes it long before the machine behind it can."""

FIRST, LAST = "hatchery-store.service", f"hatchery-nbd@{CLIENT}.service"
UNITS = (FIRST, "hatcheryd.service", LAST)
TIMES = "Id,InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic"


def answers(port: int, export: str) -> bool:
    """Whether the export is there and its first sector can be read (the NBD project's doc/proto.md)."""
    name = export.encode()
    try:
        with socket.create_connection((LOOPBACK, port), timeout=ANSWER) as stream:
            stream.settimeout(ANSWER)
            server = stream.makefile("rb")
            if server.read(18)[:16] != b"NBDMAGICIHAVEOPT":
                return False
            stream.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, len(name)) + name)
            stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 512))
            said = server.read(10 + 16 + 512)
    except OSError:
        return False
    return len(said) == 10 + 16 + 512 and struct.unpack(">IIQ", said[10:26]) == (0x67446698, 0, 7)


def kernel_start(site: Site) -> float:
    """When the machine's kernel began to count time, by ``time.monotonic()`` here."""
    before = time.monotonic()
    uptime = float(site.vm.ssh(["cat", "/proc/uptime"]).stdout.split()[0])
    return (before + time.monotonic()) / 2 - uptime


def unit_times(site: Site) -> dict[str, tuple[float, float]]:
    """When each of our units began to start, and when it was up, in seconds of the machine's kernel."""
    shown = site.vm.ssh(["systemctl", "show", f"--property={TIMES}", *UNITS]).stdout
    found = {}
    for block in shown.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines())
        began, up = (int(values[f"{word}TimestampMonotonic"]) / 1e6 for word in ("InactiveExit", "ActiveEnter"))
        found[values["Id"]] = (began, up)
    return found


def test_the_first_export_answers_after_power_on(
    site: Site, deployed: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times are the host's; what is ours lasts from the store's first step to the answer, whatever else ran then."""
    if deployed.failed:
        pytest.fail(deployed.said)
    with site.api() as api:
        api.create_clones(CloneCreate(name=EXPORT, template=TEMPLATE, client=CLIENT, learn=False))
    at_rest(site)
    site.vm.shutdown()
    site.vm.start()
    port = site.vm.port(NBD_PORT)
    until(lambda: answers(port, EXPORT), "the first export to answer", deadline=BOOT_DEADLINE, interval=0.1)
    answered = time.monotonic()
    site.vm.wait_ssh(deadline=BOOT_DEADLINE)
    serves(site)
    kernel, units = kernel_start(site), unit_times(site)
    whole = answered - site.vm.machine.started
    ours = answered - (kernel + units[FIRST][0])
    before = kernel - site.vm.machine.started
    told = [
        f"from power-on to the first export: {whole:.1f} s",
        f"  firmware, loader and the kernel's unpacking: {before:.1f} s",
        f"  kernel and systemd, up to our first step: {whole - before - ours:.1f} s",
        f"  ours: {ours:.1f} s, {ours / whole:.0%} of the whole (meant: {OURS_AT_MOST:.0%} at most)",
    ]
    for name, (began, up) in units.items():
        told.append(f"    {name}: from {began:.1f} s to {up:.1f} s after the kernel's start, for {up - began:.1f} s")
    with capsys.disabled():  # also when all is well
        print("", *told, sep="\n")
    assert 0 < before < whole
    assert 0 < ours < whole
    with site.api() as api:
        api.remove_clone(EXPORT, force=True)
