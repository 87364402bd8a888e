"""Clones over NVMe/TCP by the roles alone: a client's door, and a host that connects at boot; the appliance is its own.

It runs after test_life.py, whose first tests need an appliance that was not deployed yet.
"""

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.model import Protocol
from appliance.schema import CloneCreate, CloneView, NvmeView
from appliance.wait import until
from tests.appliance.site import ADDRESS, BOX, Play, Playbook, Site

MIB = 1 << 20
TEMPLATE, CLONE, CLIENT = "plain", "woven", "weaver"
HOST_ID = "33333333-0000-4000-8000-000000000003"
HOST_NQN = f"nqn.2014-08.org.nvmexpress:uuid:{HOST_ID}"
NBD_PORT, PORT, OTHER_PORT = 10831, 4431, 4432
UNIT = f"hatchery-nvme-connect@{CLONE}.service"
TEMPLATE_UNIT = "/etc/systemd/system/hatchery-nvme-connect@.service"
KEY_FILE = "nvme-dhchap-key"


@dataclass
class Roles:
    """Plays of one role each, on the appliance, and what they are about."""

    site: Site
    folder: Path

    def play(self, role: str, *words: str, **variables: Any) -> Play:
        """Run a role; it must not fail."""
        book = self.folder / role
        book.with_suffix(".yml").write_text(f"- hosts: hatchery\n  gather_facts: false\n  roles: [{role}]\n")
        hosts = {BOX: self.site.variables(variables)}
        play = Playbook(str(book), self.site.vm.folder, hosts).run("-vvv", "--diff", *words)[BOX]
        assert play.failed == 0, play.said
        return play

    def door(self, port: int | None, *words: str) -> Play:
        """Declare the client, reached over NVMe/TCP at a port or not at all."""
        client: dict[str, Any] = {"name": CLIENT, "address": ADDRESS, "port": NBD_PORT, "plain": True}
        if port is not None:
            client["nvme"] = {"address": ADDRESS, "port": port, "host_nqn": HOST_NQN}
        return self.play("nbd_access", *words, nbd_access_clients=[client])

    def host(self, *words: str, state: str = "present") -> Play:
        """Declare the host, which is the appliance itself."""
        return self.play(
            "hypervisor",
            *words,
            hypervisor_state=state,
            hypervisor_appliance=self.site.vm.destination,
            hypervisor_ssh_options=shlex.join(self.site.vm.ssh_options),
            hypervisor_client=CLIENT,
            hypervisor_list_file="/etc/hatchery/woven/clones",
            hypervisor_nvme_key=str(self.folder / "key"),
            hypervisor_nvme_host_nqn=HOST_NQN,
            hypervisor_nvme_package="",
            hypervisor_cli=False,
        )

    def once(self, run: Any, *what: Any) -> Play:
        """Check, apply, check and apply again: the first two tell and do the same, the others nothing."""
        planned, done = run(*what, "--check"), run(*what)
        assert planned.changed == done.changed == 1, planned.said + done.said
        for words in ((*what, "--check"), what):
            assert run(*words).changed == 0
        return Play(done.ok, done.changed, done.failed, planned.said + done.said, done.seconds)

    def key(self, verb: str) -> str:
        """Have a key of the client's host made, and its file written, as an operator does."""
        with self.site.commands() as commands:
            commands.get("client", verb, CLIENT, str(self.folder / "key"), "--nvme")
        return (self.folder / "key" / KEY_FILE).read_text(encoding="ascii").strip()

    def look(self, *argv: str) -> str:
        """What a command on the appliance says, whatever becomes of it."""
        return self.site.vm.ssh(list(argv), check=False, timeout=120).stdout.strip()

    def is_there(self, path: str) -> bool:
        return self.site.vm.ssh(["test", "-e", path], check=False).returncode == 0

    def controller(self, nqn: str) -> str:
        """The folder in sysfs of the host's controller of a subsystem, in whatever state it is."""
        found = self.look("sh", "-c", f"grep -lxF {nqn} /sys/class/nvme/nvme*/subsysnqn").split()
        (path,) = [each for each in found if self.look("cat", each.replace("subsysnqn", "transport")) == "tcp"]
        return path.removesuffix("/subsysnqn")


@pytest.fixture
def roles(site: Site, deployed: Play, tmp_path: Path) -> Iterator[Roles]:
    if deployed.failed:
        pytest.fail(deployed.said)
    # Nothing that looks like a system's disk: the appliance's own kernel shows it to the appliance's own udev.
    site.vm.ssh(["dd", "if=/dev/urandom", "of=/run/woven.raw", "bs=1M", "count=4", "status=none"])
    site.vm.ssh(["hatchery", "template", "add", TEMPLATE, "/run/woven.raw", "--format", "raw"], timeout=300)
    with site.api() as api:
        api.create_clones(CloneCreate(name=CLONE, template=TEMPLATE, client=None, learn=False))
    try:
        yield Roles(site, tmp_path)
    finally:
        site.vm.ssh(["systemctl", "disable", "--now", UNIT], check=False, timeout=120)
        site.vm.ssh(["nvme", "disconnect-all"], check=False, timeout=120)
        with site.api() as api:
            api.remove_clone(CLONE, force=True)
            api.remove_template(f"{TEMPLATE}@1")
            api.remove_client(CLIENT)


def _attach(roles: Roles) -> tuple[CloneView, NvmeView]:
    with roles.site.api() as api:
        view = api.attach(CLONE, CLIENT, Protocol.NVME_TCP)
    assert view.nvme is not None
    return view, view.nvme


def _is_connected(roles: Roles, nvme: NvmeView) -> bool:
    return roles.is_there(nvme.device) and roles.look("systemctl", "is-active", UNIT) == "active"


@pytest.mark.heavy
def test_the_roles_make_a_clone_a_disk_of_its_clients_host(site: Site, roles: Roles) -> None:
    said = roles.once(roles.door, PORT).said
    assert f"+client {CLIENT}: NVMe/TCP at {ADDRESS} port {PORT} for host {HOST_NQN}" in said
    changed = roles.door(OTHER_PORT)
    assert changed.changed == 1
    said += changed.said
    with site.api() as api:
        door = api.client(CLIENT).nvme
    assert door is not None
    assert (door.port, door.host_nqn, door.key_made) == (OTHER_PORT, HOST_NQN, None)

    key = roles.key("certificate")
    view, nvme = _attach(roles)
    assert not roles.is_there("/etc/hatchery/nvme")
    said += roles.once(roles.host).said
    assert _is_connected(roles, nvme)
    assert roles.look("systemctl", "is-enabled", UNIT) == "enabled"
    assert roles.look("stat", "--format=%a %U", "/etc/hatchery/nvme.json") == "600 root"
    secret = f"{roles.controller(nvme.nqn)}/dhchap_secret"
    assert roles.look("stat", "--format=%a %U", secret) == "600 root", "the kernel's own mode is 644"
    assert roles.look("cat", "/etc/nvme/hostnqn", "/etc/nvme/hostid").split() == [HOST_NQN, HOST_ID]
    assert roles.look("cat", f"{roles.controller(nvme.nqn)}/ctrl_loss_tmo") == "off", "it is given up some day"
    write = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 4096)"
    site.vm.ssh(["sh", "-c", f'python3 -c "{write}" > /run/woven-w'])
    site.vm.ssh(["dd", "if=/run/woven-w", f"of={nvme.device}", "bs=1M", "count=1", "oflag=direct", "status=none"])
    site.vm.ssh(["dd", f"if={view.device}", "of=/run/woven-r", "bs=1M", "count=1", "iflag=direct", "status=none"])
    content = hashlib.sha256(bytes(range(256)) * (MIB // 256)).hexdigest()
    assert roles.look("sha256sum", "/run/woven-r").split()[0] == content, "it is on the clone"

    # Somebody, or an appliance that refused it, took the disk away: the unit begins anew.
    site.vm.ssh(["nvme", "disconnect", f"--nqn={nvme.nqn}"], timeout=120)
    until(
        lambda: int(roles.look("systemctl", "show", "--value", "-p", "NRestarts", UNIT)) > 0, "a restart", deadline=90
    )
    until(lambda: _is_connected(roles, nvme), "the disk", deadline=120)
    # A stop leaves the disk, and so does a start.
    before = roles.controller(nvme.nqn)
    site.vm.ssh(["systemctl", "stop", UNIT], timeout=120)
    assert roles.is_there(nvme.device)
    assert roles.host("--check").changed == 1
    assert roles.host().changed == 1
    assert (_is_connected(roles, nvme), roles.controller(nvme.nqn)) == (True, before)

    other = roles.key("rotate")
    assert other != key
    renewed = roles.host()
    assert renewed.changed == 1
    assert roles.host("--check").changed == 0
    said += renewed.said
    assert "another key" in said
    assert roles.look("cat", f"{before}/dhchap_secret") == other
    assert roles.controller(nvme.nqn) == before, "whoever uses the disk is not disturbed"
    site.vm.ssh(["nvme", "disconnect", f"--nqn={nvme.nqn}"], timeout=120)
    until(lambda: roles.is_there(nvme.device), "the disk, by the new key", deadline=120)
    assert [each for each in (key, other) if each.split(":")[2] in said] == [], "a key was shown"

    assert roles.host("--check", state="absent").changed == 1
    assert roles.host(state="absent").changed == 1
    assert roles.host(state="absent").changed == 0
    for path in ("/etc/hatchery/nvme.json", "/etc/hatchery/nvme", TEMPLATE_UNIT):
        assert not roles.is_there(path)
    assert roles.is_there(nvme.device), "the disk may be in use"
    site.vm.ssh(["nvme", "disconnect", f"--nqn={nvme.nqn}"], timeout=120)
    with site.api() as api:
        until(lambda: not getattr(api.client(CLIENT).nvme, "connections", None), "it to go", deadline=60)
        api.detach(CLONE)
    assert roles.door(None).changed == 1
    with site.api() as api:
        assert api.client(CLIENT).nvme is None
    assert site.failed_units() == ""
