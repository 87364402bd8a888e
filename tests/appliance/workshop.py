"""An operator's machine: a checkout's folder, with an appliance that is found by the names of the documentation."""

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.remote import OPTIONS_VARIABLE
from appliance.run import Completed, Runner
from bench.vm import LOOPBACK
from tests.appliance.site import ROOT, Site

BOX_ADDRESS = "192.0.2.10"
"""The appliance's, on all pages; here it is one of its addresses, so that it can listen there."""

CONNECTION = frozenset(
    {"ansible_host", "ansible_port", "ansible_user", "ansible_ssh_private_key_file", "ansible_ssh_common_args"}
)


@dataclass(frozen=True)
class Workshop:
    """The folder. ``hv1`` and ``box`` are the appliance, as is the pages' address."""

    folder: Path
    site: Site

    @property
    def runner(self) -> Runner:
        """For what is typed there."""
        paths = [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        return Runner(
            {
                "PATH": ":".join(paths),
                "PYTHONPATH": str(ROOT),
                "CHECKOUT": str(ROOT),
                "HATCHERY_HOST": f"root@{BOX_ADDRESS}",
                # The site's own, where a test uses its API meanwhile, know no names.
                OPTIONS_VARIABLE: "",
                "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "tmp"),
                "ANSIBLE_NOCOLOR": "1",
            }
        )

    def words(self, script: str) -> list[str]:
        """The command that runs a script for bash there."""
        return ["bash", "-c", f"cd {shlex.quote(str(self.folder))}\n{script}"]

    def run(self, script: str, timeout: float = 1800) -> Completed:
        """Run a script for bash, whatever comes of it."""
        return self.runner.run(self.words(script), timeout=timeout, check=False)


@contextmanager
def workshop(site: Site) -> Iterator[Workshop]:
    """A workshop, until the block ends. Its ``editor`` enters what the site's inventory has."""
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    try:
        for name in ("ansible.cfg", "appliance", "roles", "script"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copytree(ROOT / "ansible", folder / "ansible")
        (folder / "tmp").mkdir()
        (folder / "box.yml").write_text(json.dumps(_own(site.variables({}))), encoding="utf-8")
        _programs(folder, site)
        site.vm.ssh(["ip", "address", "replace", f"{BOX_ADDRESS}/32", "dev", "lo"])
        yield Workshop(folder, site)
    finally:
        shutil.rmtree(folder)


def _own(variables: Mapping[str, object]) -> dict[str, object]:
    """What is the box's own: how it is reached stands in hosts.yml."""
    return {name: value for name, value in variables.items() if name not in CONNECTION}


def _programs(folder: Path, site: Site) -> None:
    """Programs that know the way to the box, as a user's ~/.ssh/config would; and an editor that needs nobody."""
    options = [word.replace("=", " ", 1) for word in site.vm.ssh_options if "=" in word]
    lines = [f"Host box hv1 {BOX_ADDRESS}", f"HostName {LOOPBACK}", "Host *", *options]
    (folder / "ssh.config").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "bin").mkdir()
    programs = {name: f'exec {shutil.which(name)} -F {folder}/ssh.config "$@"' for name in ("ssh", "scp")}
    programs["editor"] = f'for file; do case $file in */box.yml) cp {folder}/box.yml "$file" ;; esac; done'
    for name, line in programs.items():
        file = folder / "bin" / name
        file.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        file.chmod(0o755)
