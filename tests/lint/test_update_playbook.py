"""``ansible/update.yml`` over two appliances: one after the other, and none after one that falls back.

The appliances are a program in the place of ssh, which notes who is asked for what. What real ones answer is tried in
tests/appliance/test_update_story.py.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from appliance.run import Runner
from tests.lint.files import ROOT

BIN = Path(sys.executable).parent
OLD, NEW = "0.1.0", "0.1.1"
WHY = "the durable pool cannot be written to"

SSH = f"""#!{sys.executable}
import json, pathlib, sys

folder = pathlib.Path(__file__).parent
host = next(word for word in sys.argv if "@" in word).partition("@")[2]
asked = sys.argv[-1]
with (folder / "log").open("a") as log:
    log.write(f"{{host}}: {{asked}}\\n")
started = folder / f"{{host}}.started"
falls_back = (folder / f"{{host}}.falls-back").exists()
if "boot_id" in asked:
    print(2 if started.exists() else 1)
elif "reboot" in asked:
    started.touch()
elif "hatchery-update show" in asked:
    print(json.dumps({{"version": "{NEW}"}}))
elif "hatchery-update apply" in asked:
    print(json.dumps({{"changed": True, "steps": [], "restart": True}}))
elif "hatchery-update status" in asked:
    running = "{NEW}" if started.exists() and not falls_back else "{OLD}"
    why = "{WHY}" if started.exists() and falls_back else None
    print(json.dumps({{"running": running, "good": True, "next": running, "slots": [], "given_up": why}}))
else:
    sys.exit(f"asked for {{asked}}")
"""


@dataclass(frozen=True)
class Fleet:
    """Two appliances in one inventory, ``a`` before ``b``."""

    folder: Path

    def falls_back(self, host: str) -> None:
        """Let its trial of the new version fail."""
        (self.folder / f"{host}.falls-back").touch()

    def update(self) -> tuple[int, str]:
        """Play it; the exit status, and what it said."""
        inventory = self.folder / "hosts.yml"
        hosts = {name: {"ansible_host": name, "ansible_user": "root"} for name in ("a", "b")}
        inventory.write_text(yaml.safe_dump({"hatchery": {"hosts": hosts}}))
        environment = {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "PATH": f"{self.folder}:{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        words = ["-e", "update_url=https://updates.example.net/new/", "-e", "update_deadline=60"]
        playbook = ROOT / "ansible/update.yml"
        done = Runner(environment).run([BIN / "ansible-playbook", "-i", inventory, *words, playbook], check=False)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def asked(self) -> list[str]:
        """Which host was asked, each time that one was."""
        log = self.folder / "log"
        return [line.partition(":")[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    program = tmp_path / "ssh"
    program.write_text(SSH)
    program.chmod(0o755)
    return Fleet(tmp_path)


def test_appliances_are_updated_one_after_the_other(fleet: Fleet) -> None:
    status, said = fleet.update()
    assert status == 0, said
    asked = fleet.asked()
    assert set(asked) == {"a", "b"}
    assert asked == sorted(asked), "the second was asked for something before the first was through"
    status, said = fleet.update()
    assert (status, said.count("changed=0")) == (0, 2), said


def test_when_one_falls_back_the_next_is_not_touched(fleet: Fleet) -> None:
    fleet.falls_back("a")
    status, said = fleet.update()
    assert status != 0
    assert f"version {NEW} was given up" in said
    assert WHY in said
    assert set(fleet.asked()) == {"a"}


def test_it_stops_at_the_first_one_whatever_the_number_at_a_time() -> None:
    """With one at a time Ansible stops by itself; with more at a time it would go on with those that did not fail."""
    [play] = yaml.safe_load((ROOT / "ansible/update.yml").read_text(encoding="utf-8"))
    assert (play["serial"], play["any_errors_fatal"]) == (1, True)
