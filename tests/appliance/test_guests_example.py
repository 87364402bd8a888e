"""The example play with a real libvirt and real guests, which needs no appliance.

The service and its API are real, over the model of the store. What the clones would be is served by a storage daemon
here, at the address that the service hands out.
"""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.model import MIB
from appliance.run import Process, Runner
from appliance.wait import until
from bench.vm import LOOPBACK, free_ports
from tests.appliance import libvirt_host, near
from tests.appliance.conftest import image
from tests.appliance.libvirt_host import Host
from tests.appliance.near import ADDRESS, CLIENT, PORT
from tests.appliance.site import Play
from tests.tier import require
from tests.unit.service_harness import Box

NAMES = ["lv-1", "lv-2"]

KERNEL = 32 * MIB
"""More than what the firmware reads before it has found the guest's kernel."""


class Disks:
    """What the clones would be: a storage daemon with an overlay of the sample template for each.

    It lets in who has a certificate of the authority whose own is in the folder ``credentials``, if there is one.
    """

    def __init__(self, folder: Path, port: int, credentials: Path | None) -> None:
        self._folder = folder
        self._credentials = credentials
        self._port = port
        self._daemon: Process | None = None
        template = image("guest").with_name("guest.qcow2")
        for name in NAMES:
            Runner().run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", template, folder / name])

    def serve(self) -> None:
        """Begin to serve them."""
        argv, door = ["qemu-storage-daemon"], f"addr.type=inet,addr.host={LOOPBACK},addr.port={self._port}"
        if self._credentials is not None:
            argv += ["--object", f"tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir={self._credentials}"]
            door += ",tls-creds=t"
        argv += ["--nbd-server", door]
        for name in NAMES:
            file = f"file.driver=file,file.filename={self._folder / name}"
            argv += ["--blockdev", f"driver=qcow2,node-name={name},{file}"]
            argv += ["--export", f"type=nbd,id={name},node-name={name},name={name},writable=on"]
        self._daemon = Runner().start(argv)

    def kill(self) -> None:
        """End the daemon as a crash would."""
        if self._daemon is not None:
            self._daemon.signal(signal.SIGKILL)
            self._daemon.wait(30)
            self._daemon = None


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def appliance(folder: Path, tls: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with near.service(folder / "box", monkeypatch, plain=not tls) as made:
        yield made


@pytest.fixture
def disks(folder: Path, appliance: Box, tls: bool) -> Iterator[tuple[Disks, int]]:
    require(shutil.which("qemu-storage-daemon"), "qemu-storage-daemon is needed: run script/bootstrap")
    (port,) = free_ports(1)
    made = Disks(folder, port, appliance.paths.tls(CLIENT) if tls else None)
    made.serve()
    yield made, port
    made.kill()


@pytest.fixture
def host(folder: Path, appliance: Box, tls: bool, disks: tuple[Disks, int]) -> Iterator[Host]:
    certificate = near.certificate(appliance, folder / "certificate") if tls else None
    ports = [(PORT, disks[1])]
    with libvirt_host.running(image("hypervisor"), folder / "libvirt", ADDRESS, ports, certificate) as running:
        yield running


def play(folder: Path, host: Host, *words: str) -> Play:
    return host.play(folder, *words, guests_names=NAMES)


def read(host: Host) -> list[int]:
    """Bytes that each guest has read from its disk."""
    said = [host.virsh("domblkstat", name, "vda") for name in NAMES]
    return [int(line.split()[-1]) for text in said for line in text.splitlines() if " rd_bytes " in line]


@pytest.mark.heavy
def test_the_example_defines_and_starts_guests_on_clones(
    folder: Path, appliance: Box, tls: bool, disks: tuple[Disks, int], host: Host
) -> None:
    planned = play(folder, host, "--check")
    assert planned.changed == 2, planned.said
    assert (host.running(), appliance.service.list_clones().clones) == ([], ())
    done = play(folder, host)
    assert host.running() == NAMES, done.said
    assert [clone.name for clone in appliance.service.list_clones().clones] == NAMES
    for words in (["--check"], []):
        again = play(folder, host, *words)
        assert again.changed == 0, again.said
    libvirt_host.check_disks(host, ADDRESS, PORT, NAMES, tls=tls)

    # The storage daemon is killed while the firmware reads, and both guests go on to read their kernels.
    until(lambda: min(read(host)) > 0, "both guests to read", deadline=300, interval=0.1)
    server, _ = disks
    server.kill()
    before = read(host)
    server.serve()
    until(
        lambda: min(read(host)) > KERNEL and all(now > then for now, then in zip(read(host), before, strict=True)),
        "both guests to go on",
        deadline=600,
        interval=0.5,
    )
    assert [host.virsh("domstate", "--reason", name).strip() for name in NAMES] == ["running (booted)"] * 2
    # One that was stopped is started again, and nothing else is done.
    host.virsh("destroy", NAMES[0])
    assert play(folder, host).changed == 1
    assert host.running() == NAMES
