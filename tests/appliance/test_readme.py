"""The README's commands, as they stand there, lead a newcomer to booted clones."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.measure import guest
from appliance.run import Runner
from appliance.wait import until
from bench import keep
from tests.appliance.site import CLIENT, GUEST_DEADLINE, NBD_PORT, ROOT, TEMPLATE, Play, Site
from tests.pages import Place, of

MOST_COMMANDS = 6
MINE = "mine@1"


def block(heading: str) -> list[str]:
    """The command lines below a heading of the README, up to the next heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^[$#] (.*)$", text, re.MULTILINE)


@pytest.fixture
def shell(site: Site, deployed: Play, tmp_path: Path) -> Iterator["Shell"]:
    assert deployed.failed == 0, deployed.said
    made = Shell(site, tmp_path)
    yield made
    with site.commands() as hatchery:
        for clone in hatchery.get("clone", "list"):
            hatchery.get("clone", "remove", clone["name"])
        # What the boot taught is being fetched, and the template stays until that is done.
        until(
            lambda: hatchery.run("template", "remove", MINE).returncode == 0, f"{MINE} to go", deadline=300, interval=1
        )


class Shell:
    """A newcomer's shell, in a folder with his image; what the demo leaves is there."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._folder = folder
        (folder / "mine.qcow2").symlink_to(site.template)
        (folder / "build/demo").mkdir(parents=True)
        keep.write(site.vm, folder / "build/demo", NBD_PORT)

    def run(self, line: str) -> str:
        """Run a line; what it printed."""
        script = f"set -eo pipefail; cd {self._folder}; . build/demo/use; {line}"
        return Runner().run(["bash", "-c", script], timeout=600).stdout

    def boots(self, line: str) -> str:
        """Run a line that boots a guest, up to its login prompt; the emulator's own faults are tried once more."""
        said = ""
        for _ in range(2):
            said = self._boot(line)
            if not any(fault in said for fault in guest.EMULATOR_FAULTS):
                break
        return said

    def _boot(self, line: str) -> str:
        log = self._folder / "console"
        ends = (guest.PROMPT, *guest.FAULTS)
        with log.open("wb") as out, Runner().start(["bash", "-c", f"cd {self._folder}; {line}"], stdout=out) as process:
            until(
                lambda: not process.running() or any(each in log.read_text(errors="replace") for each in ends),
                "the login prompt",
                deadline=GUEST_DEADLINE,
            )
        return log.read_text(errors="replace")


@pytest.mark.heavy  # a guest's boot takes minutes
def test_six_commands_lead_to_a_booted_clone_of_ones_own_image(shell: Shell) -> None:
    lines = [command.text for command in of(Place.NEWCOMER)]
    # The fixture leaves what the first command leaves, and ends it.
    assert block("## Your own image, without a box") == ["script/demo --keep", *lines, 'script/demo --stop "$DEMO"']
    assert len(lines) + 2 <= MOST_COMMANDS
    for line in lines:
        if line.startswith("build/demo/boot"):
            assert guest.PROMPT in shell.boots(line)
        else:
            shell.run(line.replace("--client demo", f"--client {CLIENT}"))


@pytest.mark.heavy
@pytest.mark.usefixtures("deployed")
def test_the_commands_for_a_real_box_do_what_they_say(shell: Shell) -> None:
    lines = [line for line in block("## On a real box") if line.startswith(("hatchery clone", "hatchery status"))]
    assert len(lines) > 2
    said = [
        shell.run(line.replace("--client hv1", f"--client {CLIENT}").replace("debian-13", TEMPLATE)) for line in lines
    ]
    assert "web-4" in said[0]
    assert "qemu" in said[1]
    assert "reconnect" in said[1]
