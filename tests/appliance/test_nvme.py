"""Clones over NVMe/TCP with the kernel's own target: to its own host beside it, on the appliance, and to another's.

What is shown here: the unit's few rights suffice, the target's sockets are not shut off with hatcheryd's, and another
machine waits out the appliance's restart. It runs after test_life.py, whose first tests need an appliance that was not
deployed yet.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from appliance.errors import InUse
from appliance.model import Protocol
from appliance.run import Completed
from appliance.schema import ClientSpec, CloneCreate, CloneView, NvmeKeyRequest, NvmeSpec
from appliance.wait import until
from bench.vm import VM, Hardware
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import ADDRESS, NVME_TCP_PORT, Play, Site
from tests.appliance.users import serves

MIB = 1 << 20
TEMPLATE, CLONE = "small", "fabric"
HOSTS = {"fabric-1": ("nqn.2014-08.org.nvmexpress:uuid:11111111-0000-4000-8000-000000000001", NVME_TCP_PORT),
         "fabric-2": ("nqn.2014-08.org.nvmexpress:uuid:22222222-0000-4000-8000-000000000002", 4421)}  # fmt: skip
"""Clients: their hosts' names, and their ports."""

TARGET = "/sys/kernel/config/nvmet"

GATEWAY = "10.0.2.2"
"""Where QEMU's user networking has this machine, and with it the ports that lead to the appliance."""

WRITER = """
import itertools, mmap, os, sys
device, page = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, 4096)
told = os.open("/run/written", os.O_WRONLY | os.O_CREAT)
for number in itertools.count(1):
    page[:] = words = str(number).encode().rjust(4096)
    os.pwritev(device, [page], number % 256 * 4096)
    os.fsync(device)
    page[:] = bytes(4096)
    os.preadv(device, [page], number % 256 * 4096)
    assert page[:] == words
    os.pwrite(told, words[-20:], 0)
"""
"""Writes, flushes and reads for ever, each block with its number, and ends at the first error."""


@dataclass
class Fabric:
    """A clone that the first client has over NVMe/TCP, and the keys of both."""

    site: Site
    clone: CloneView
    keys: dict[str, str]

    @property
    def nqn(self) -> str:
        assert self.clone.nvme is not None
        return self.clone.nvme.nqn

    def nvme(self, *words: str, client: str = "fabric-1", at: str | None = None, on: VM | None = None) -> Completed:
        """nvme-cli as the host of a client, at its port or another one's; ``on`` another machine than the appliance."""
        host, port = HOSTS[client][0], HOSTS[at or client][1]
        address, port = (ADDRESS, port) if on is None else (GATEWAY, self.site.vm.port(port))
        where = [f"--traddr={address}", f"--trsvcid={port}", f"--hostnqn={host}"]
        where.append(f"--hostid={host.rpartition(':')[2]}")
        return (on or self.site.vm).ssh(["nvme", *words, "--transport=tcp", *where], check=False, timeout=120)

    def connect(self, key: str, *, client: str = "fabric-1", at: str | None = None, on: VM | None = None) -> Completed:
        secret = [f"--dhchap-secret={key}"] if key else []
        return self.nvme("connect", f"--nqn={self.nqn}", *secret, client=client, at=at, on=on)

    def read(self, device: str) -> str:
        """The digest of the first MiB of a device."""
        words = ["dd", f"if={device}", "bs=1M", "count=1", "iflag=direct", "status=none", "of=/run/fabric-read"]
        self.site.vm.ssh(words, timeout=120)
        return self.site.vm.ssh(["sha256sum", "/run/fabric-read"]).stdout.split()[0]


@pytest.fixture
def fabric(site: Site, deployed: Play) -> Iterator[Fabric]:
    if deployed.failed:
        pytest.fail(deployed.said)
    site.vm.ssh(["modprobe", "nvme-tcp"])
    # Nothing that looks like a system's disk: the appliance's own kernel shows it to the appliance's own udev.
    site.vm.ssh(["dd", "if=/dev/urandom", "of=/run/fabric.raw", "bs=1M", "count=4", "status=none"])
    site.vm.ssh(["hatchery", "template", "add", TEMPLATE, "/run/fabric.raw", "--format", "raw"], timeout=300)
    with site.api() as api:
        keys = {}
        for client, (host, port) in HOSTS.items():
            api.put_client(client, ClientSpec(transport="unix"))
            api.put_nvme(client, NvmeSpec(address=ADDRESS, port=port, host_nqn=host))
            keys[client] = api.issue_nvme_key(client, NvmeKeyRequest()).key.get_secret_value()
        api.create_clones(CloneCreate(name=CLONE, template=TEMPLATE, client=None, learn=False))
        view = api.attach(CLONE, "fabric-1", Protocol.NVME_TCP)
    try:
        yield Fabric(site, view, keys)
    finally:
        site.vm.ssh(["nvme", "disconnect-all"], check=False, timeout=120)
        # Another connection: hatcheryd was killed meanwhile.
        with site.api() as api:
            api.remove_clone(CLONE, force=True)
            api.remove_template(view.template)
            for client in HOSTS:
                api.remove_client(client)


@pytest.mark.heavy
def test_a_clone_is_its_clients_disk_over_nvme_and_nobody_elses(site: Site, fabric: Fabric) -> None:
    assert fabric.clone.nvme is not None
    other = fabric.keys["fabric-2"]
    assert fabric.nqn in fabric.nvme("discover").stdout
    assert fabric.nqn not in fabric.nvme("discover", client="fabric-2", at="fabric-1").stdout
    for refused in (
        fabric.connect(""),
        fabric.connect(other),
        fabric.connect(other, client="fabric-2", at="fabric-1"),
        fabric.connect(fabric.keys["fabric-1"], client="fabric-2", at="fabric-1"),
    ):
        assert refused.returncode != 0, refused.stdout
    key_file = f"{TARGET}/hosts/{HOSTS['fabric-1'][0]}/dhchap_key"
    assert site.vm.ssh(["stat", "--format=%a %U", key_file]).stdout.strip() == "600 root"

    done = fabric.connect(fabric.keys["fabric-1"])
    assert done.returncode == 0, done.stderr
    device = fabric.clone.nvme.device
    until(lambda: site.vm.ssh(["test", "-b", device], check=False).returncode == 0, f"{device}", deadline=60)
    content = bytes(range(256)) * (MIB // 256)
    wrote = ["sh", "-c", 'python3 -c "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096)" > /run/fabric-w']
    site.vm.ssh(wrote)
    words = ["dd", "if=/run/fabric-w", f"of={device}", "bs=1M", "count=1", "oflag=direct", "status=none"]
    site.vm.ssh(words, timeout=120)
    assert fabric.read(fabric.clone.device) == hashlib.sha256(content).hexdigest(), "it is on the clone"

    with site.api() as api:
        with pytest.raises(InUse, match="in use") as caught:
            api.detach(CLONE)
        assert ADDRESS in caught.value.why
        shown = api.client("fabric-1")
        assert (shown.state, shown.detail) == ("ok", "serving 1 clone(s), NVMe/TCP not encrypted")
        assert shown.nvme is not None
        assert shown.nvme.connections

    site.vm.ssh(["systemctl", "kill", "--signal=KILL", "hatcheryd"])
    assert fabric.read(device) == hashlib.sha256(content).hexdigest(), "while hatcheryd is away"
    site.vm.ssh(["systemctl", "reset-failed", "hatcheryd"], check=False)
    site.vm.ssh(["systemctl", "start", "hatcheryd"], timeout=300)
    assert fabric.read(device) == hashlib.sha256(content).hexdigest(), "after its start"

    site.vm.ssh(["nvme", "disconnect", f"--nqn={fabric.nqn}"], timeout=120)
    with site.api() as api:
        until(lambda: not getattr(api.client("fabric-1").nvme, "connections", None), "it to go", deadline=60)
        assert api.detach(CLONE).client is None
    for kind in ("subsystems", "ports", "hosts"):
        assert site.vm.ssh(["ls", f"{TARGET}/{kind}"]).stdout == ""
    assert site.failed_units() == ""


@pytest.fixture
def other(site: Site) -> Iterator[VM]:
    """Another machine, of the same image and never deployed: it has the kernel's NVMe host, and nvme-cli."""
    hardware = Hardware(memory_mib=1024, cpus=1)
    with VM(site.vm.folder / "other", site.vm.system, (), site.vm.key, site.runner, hardware) as made:
        made.start()
        made.wait_ssh(deadline=BOOT_DEADLINE)
        made.ssh(["modprobe", "nvme-tcp"])
        yield made


@pytest.mark.heavy
def test_a_host_waits_out_a_restart_of_the_appliance(site: Site, fabric: Fabric, other: VM) -> None:
    assert fabric.clone.nvme is not None
    device = fabric.clone.nvme.device
    done = fabric.connect(fabric.keys["fabric-1"], on=other)
    assert done.returncode == 0, done.stderr
    until(lambda: other.ssh(["test", "-b", device], check=False).returncode == 0, f"{device}", deadline=60)
    other.ssh(["systemd-run", "--quiet", "--unit=writer", "python3", "-c", WRITER, device])

    def written() -> int:
        state = other.ssh(["systemctl", "is-active", "writer"], check=False).stdout.strip()
        assert state == "active", other.ssh(["journalctl", "--no-pager", "--lines=40"]).stdout
        return int(other.ssh(["cat", "/run/written"], check=False).stdout or 0)

    until(lambda: written() > 256, "writes", deadline=300, interval=1)
    site.vm.reboot(deadline=BOOT_DEADLINE)
    serves(site)
    # Nobody does anything, here or there: the target is as it was, and the host comes back to it.
    assert fabric.nqn in site.vm.ssh(["ls", f"{TARGET}/subsystems"]).stdout
    before = written()
    until(lambda: written() > before, "writes after the restart", deadline=300, interval=1)
    with site.api() as api:
        shown = api.client("fabric-1")
        assert (shown.state, shown.detail) == ("ok", "serving 1 clone(s), NVMe/TCP not encrypted")

    other.ssh(["systemctl", "stop", "writer"])
    last = int(other.ssh(["cat", "/run/written"]).stdout)
    words = ["dd", f"if={fabric.clone.device}", "bs=4096", f"skip={last % 256}", "count=1", "iflag=direct"]
    assert int(site.vm.ssh([*words, "status=none"]).stdout) == last, "what the host was told is written"
    other.ssh(["nvme", "disconnect", f"--nqn={fabric.nqn}"], timeout=120)
    assert site.failed_units() == ""
