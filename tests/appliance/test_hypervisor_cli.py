"""The command line on a host of guests with Debian 13, put there by the role, whose packages suffice; no appliance."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.appliance import libvirt_host, near
from tests.appliance.conftest import image
from tests.appliance.libvirt_host import Host
from tests.appliance.site import ROOT, Play, Playbook

PROGRAM, ATTACH = "/usr/local/bin/hatchery", "/usr/local/bin/hatchery-attach"
LIBRARY = "/usr/local/lib/hatchery/appliance"


@dataclass
class Role:
    """Plays of the role on the host."""

    host: Host
    folder: Path

    def play(self, *words: str, **change: Any) -> Play:
        """Run the role; it must not fail."""
        book = self.folder / "role"
        book.with_suffix(".yml").write_text("- hosts: hypervisors\n  gather_facts: false\n  roles: [hypervisor]\n")
        variables = {
            **self.host.reached,
            "hypervisor_certificate": str(self.folder / "certificate"),
            "hypervisor_group": "root",
            "hypervisor_appliance": near.DESTINATION,
            "hypervisor_client": near.CLIENT,
            # There is no network to install them from. They are there: see below.
            "hypervisor_cli_packages": [],
            **change,
        }
        book_of_hosts = Playbook(str(book), self.folder, {"hv1": variables}, group="hypervisors")
        play = book_of_hosts.run("--diff", *words)["hv1"]
        assert play.failed == 0, play.said
        return play

    def is_there(self, path: str) -> bool:
        return self.host.run("test", "-e", path, check=False).returncode == 0


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    try:
        with (
            near.service(folder / "box", monkeypatch, plain=False) as box,
            libvirt_host.running(image("hypervisor"), folder / "host", near.ADDRESS, []) as host,
        ):
            near.certificate(box, folder / "certificate")
            yield Role(host, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.heavy
def test_the_role_puts_the_command_line_onto_a_host(role: Role) -> None:
    host = role.host
    packages = yaml.safe_load((ROOT / "roles/hypervisor/defaults/main.yml").read_text())["hypervisor_cli_packages"]
    host.run("dpkg-query", "--show", *packages)
    assert role.play("--check").changed == 2, "the certificate, the command line"
    assert not role.is_there(PROGRAM)
    assert role.play().changed == 2
    for words in (["--check"], []):
        again = role.play(*words)
        assert again.changed == 0, again.said

    # They run, from anywhere, and are those that were put there. Who asks has to reach an appliance, and the kernel to
    # have the module; without, they say so.
    assert host.run(PROGRAM, "--version").stdout.startswith("hatchery ")
    for program, words, status in ((PROGRAM, ["status", "--json"], 9), (ATTACH, ["--list", "--json"], 1)):
        done = host.run(program, *words, check=False)
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (status, "not-ready"), done.stderr
    host.run("sh", "-c", f"echo 'raise SystemExit(77)' >{LIBRARY}/cli/main.py; touch {LIBRARY}/old.py")
    assert host.run(PROGRAM, "--version", check=False).returncode == 77

    # What was changed by hand is put right, and what another version left goes.
    assert role.play("--check").changed == 1
    assert role.play().changed == 1
    assert not role.is_there(f"{LIBRARY}/old.py")
    assert host.run(PROGRAM, "--version").stdout.startswith("hatchery ")

    # What does not run there is not written.
    host.run("sh", "-c", f"rm {LIBRARY}/run.py; mv /usr/lib/python3/dist-packages/typer /srv")
    with pytest.raises(AssertionError, match=r"does not run on this host: ModuleNotFoundError"):
        role.play()
    assert not role.is_there(f"{LIBRARY}/run.py")
    host.run("mv", "/srv/typer", "/usr/lib/python3/dist-packages")

    # It is left alone where it is not wanted, and removed with all else.
    assert role.play(hypervisor_state="absent", hypervisor_cli=False).changed == 1
    assert role.is_there(PROGRAM)
    assert role.play(hypervisor_state="absent").changed == 1
    assert not role.is_there("/usr/local/lib/hatchery")
    assert not role.is_there(PROGRAM)
