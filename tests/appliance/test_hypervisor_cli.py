"""The command line on a host of guests, put there by the role; the appliance is its own host, whose packages suffice.

It runs after test_life.py, whose first tests need an appliance that was not deployed yet.
"""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.schema import ClientSpec, CloneCreate
from tests.appliance.site import ADDRESS, BOX, TEMPLATE, Play, Playbook, Site

CLIENT, CLONE, PORT = "reeve", "reeved", 10841
FOLDER = "/opt/hatchery"
"""/usr, where it goes by default, is read-only on the appliance."""

PROGRAM, ATTACH = f"{FOLDER}/bin/hatchery", f"{FOLDER}/bin/hatchery-attach"


@dataclass
class Role:
    """Plays of the role on the appliance."""

    site: Site
    folder: Path

    def play(self, *words: str, **change: Any) -> Play:
        """Run the role; it must not fail."""
        book = self.folder / "hypervisor"
        book.with_suffix(".yml").write_text("- hosts: hatchery\n  gather_facts: false\n  roles: [hypervisor]\n")
        variables = {
            "hypervisor_certificate": str(self.folder / "certificate"),
            "hypervisor_directory": f"{FOLDER}/certificate",
            "hypervisor_group": "root",
            "hypervisor_appliance": self.site.vm.destination,
            "hypervisor_ssh_options": shlex.join(self.site.vm.ssh_options),
            "hypervisor_client": CLIENT,
            "hypervisor_list_file": f"{FOLDER}/list/clones",
            "hypervisor_cli_packages": [],
            "hypervisor_cli_directory": f"{FOLDER}/lib",
            "hypervisor_cli_programs": f"{FOLDER}/bin",
        }
        hosts = {BOX: self.site.variables(variables | change)}
        play = Playbook(str(book), self.site.vm.folder, hosts).run("-v", "--diff", *words)[BOX]
        assert play.failed == 0, play.said
        return play

    def said(self, *argv: str) -> str:
        """What a command there says; it must not fail."""
        return self.site.vm.ssh(list(argv), timeout=300).stdout

    def is_there(self, path: str) -> bool:
        return self.site.vm.ssh(["test", "-e", path], check=False).returncode == 0


@pytest.fixture
def role(site: Site, deployed: Play, tmp_path: Path) -> Iterator[Role]:
    if deployed.failed:
        pytest.fail(deployed.said)
    with site.api() as api:
        api.put_client(CLIENT, ClientSpec(transport="tcp", address=ADDRESS, port=PORT))
        api.create_clones(CloneCreate(name=CLONE, template=TEMPLATE, client="local", learn=False))
    with site.commands() as commands:
        commands.get("client", "certificate", CLIENT, str(tmp_path / "certificate"))
    try:
        yield Role(site, tmp_path)
    finally:
        site.vm.ssh(["rm", "-rf", FOLDER], check=False)
        with site.api() as api:
            api.remove_clone(CLONE, force=True)
            api.remove_client(CLIENT)


@pytest.mark.heavy
def test_the_role_puts_the_command_line_onto_a_host(site: Site, role: Role) -> None:
    planned = role.play("--check")
    assert planned.changed == 2, "the certificate, the command line"
    assert not role.is_there(FOLDER)
    assert role.play().changed == 2
    assert role.play("--check").changed == 0
    assert role.play().changed == 0

    # It works, and is the one that was put there: without it, so is the program.
    (view,) = [one for one in json.loads(role.said(PROGRAM, "clone", "list", "--json")) if one["name"] == CLONE]
    site.vm.ssh(["modprobe", "nbd"])
    device = role.said(ATTACH, view["uri"]).strip()
    assert role.said(ATTACH, "--detach", device).strip() == device
    parts = json.loads(role.said(PROGRAM, "clone", "look", CLONE, "--json"))
    assert {part["holds"] for part in parts} >= {"gpt partition table", "ext4", "vfat"}
    assert role.said(ATTACH, "--list") == ""
    site.vm.ssh(["sh", "-c", f"echo 'raise SystemExit(77)' >{FOLDER}/lib/appliance/cli/main.py"])
    assert site.vm.ssh([PROGRAM, "--version"], check=False).returncode == 77

    # What was changed by hand is put right, and what another version left goes.
    site.vm.ssh(["sh", "-c", f"echo broken >{FOLDER}/lib/appliance/run.py; touch {FOLDER}/lib/appliance/old.py"])
    assert role.play("--check").changed == 1
    assert role.play().changed == 1
    assert not role.is_there(f"{FOLDER}/lib/appliance/old.py")
    assert role.said(PROGRAM, "--version").startswith("hatchery ")
    # Left alone where it is not wanted, removed with all else.
    assert role.play(hypervisor_state="absent", hypervisor_cli=False).changed == 1
    assert role.is_there(PROGRAM)
    assert role.play(hypervisor_state="absent").changed == 1
    assert not role.is_there(f"{FOLDER}/lib")
    assert not role.is_there(PROGRAM)
    assert site.failed_units() == ""
