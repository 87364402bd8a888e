"""An appliance in QEMU, as these tests use it: its disks, its inventory, the playbook, the commands, guests."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.client import Client, connect
from appliance.measure import guest
from appliance.measure.qemu import Machine
from appliance.measure.serial import MachineFault
from appliance.model import GIB
from appliance.remote import OPTIONS_VARIABLE, forwarded
from appliance.run import Completed, Process, Runner
from bench.drives import Bus, Drive
from bench.vm import LOOPBACK, VM
from tests.terminal import answered

ROOT = Path(__file__).resolve().parents[2]
NVME = Drive("NVME0", Bus.NVME, 3 * GIB)
DISKS = tuple(Drive(f"DISK{number}", Bus.SCSI, GIB) for number in (1, 2, 3))
"""Small: the first synchronisation of an array takes an emulated processor for itself."""

NBD_PORT, NVME_TCP_PORT = 10809, 4420
SECOND_PORT = 10810
"""Another client's, where a test has a second one."""

ADDRESS = "10.0.2.15"
"""What QEMU's user networking gives the appliance (QEMU: docs/system/devices/net.rst)."""

GUEST_DEADLINE = 600.0
"""Two minutes are usual where two emulated machines share two processors; a busy machine may take some more."""

TEMPLATE = "debian-13"
CLIENT = "host"
API_SOCKET = Path("/run/hatchery/api.sock")

BOX = "box"
"""The appliance's name in its inventory."""

_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Play:
    """How a run of a playbook ended: its tasks by outcome, all that it said, and the time of all hosts together."""

    ok: int
    changed: int
    failed: int
    said: str
    seconds: float


@dataclass(frozen=True)
class Playbook:
    """A playbook, of ours by its name or any by its path, and the hosts that it is for, each with its variables.

    ``folder`` is for Ansible's own files. ``group`` is the one that the hosts are in.
    """

    name: str
    folder: Path
    hosts: Mapping[str, Mapping[str, Any]]
    group: str = "hatchery"

    def run(self, *words: str, timeout: float = 900) -> dict[str, Play]:
        """Run it to its end, however that is; how it ended for each host."""
        begin = time.monotonic()
        done = self._runner().run(self._argv(words), timeout=timeout, check=False)
        return self._ended(done, time.monotonic() - begin)

    def answered(self, question: str, answer: str, *words: str, timeout: float = 900) -> dict[str, Play]:
        """The same on a terminal, for one that asks something."""
        begin = time.monotonic()
        done = answered(self._runner(), self._argv(words), question, answer, timeout=timeout)
        return self._ended(done, time.monotonic() - begin)

    def _ended(self, done: Completed, seconds: float) -> dict[str, Play]:
        said = done.stdout + done.stderr
        plays: dict[str, Play] = {}
        for host, *counts in _RECAP.findall(said):
            ok, changed, unreachable, failed = map(int, counts)
            assert unreachable == 0, said
            plays[host] = Play(ok, changed, failed, said, seconds)
        assert set(plays) == set(self.hosts), said
        assert (done.returncode == 0) == all(play.failed == 0 for play in plays.values()), said
        return plays

    def start(self, *words: str) -> Process:
        """Start it, and go on."""
        return self._runner().start(self._argv(words), stderr=subprocess.DEVNULL)

    def _runner(self) -> Runner:
        return Runner(
            {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "ansible"),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder),
                "ANSIBLE_NOCOLOR": "1",
                "PYTHONPATH": str(ROOT),
            }
        )

    def _argv(self, words: Sequence[str]) -> list[str | Path]:
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({self.group: {"hosts": self.hosts}}), encoding="utf-8")
        program = Path(sys.executable).with_name("ansible-playbook")
        return [program, "-i", inventory, *words, (ROOT / "ansible" / self.name).with_suffix(".yml")]


@dataclass
class Site:
    """The appliance and the machine that it is deployed and used from."""

    vm: VM
    template: Path
    runner: Runner

    # -- deploying

    def variables(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """The appliance's variables in an inventory, with some other than usual."""
        return {
            "ansible_host": LOOPBACK,
            "ansible_port": self.vm.port(22),
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.vm.key.private),
            "ansible_ssh_common_args": shlex.join(self.vm.ssh_options),
            "nvme_cache_devices": [NVME.by_id],
            "backend_raid_disks": [disk.by_id for disk in DISKS],
            "nbd_access_clients": [{"name": CLIENT, "address": ADDRESS, "port": NBD_PORT, "plain": True}],
            "clone_templates_items": [{"name": TEMPLATE, "src": str(self.template), "format": "qcow2"}],
            **change,
        }

    def play(self, *words: str, playbook: str = "deploy", timeout: float = 900, **change: Any) -> Play:
        """Run a playbook, the one that deploys unless told otherwise, as a user would."""
        plays = Playbook(playbook, self.vm.folder, {BOX: self.variables(change)}).run(*words, timeout=timeout)
        return plays[BOX]

    # -- using

    @contextmanager
    def environment(self) -> Iterator[None]:
        """The options for ssh in the environment, for what reaches the appliance by itself."""
        before = os.environ.get(OPTIONS_VARIABLE)
        os.environ[OPTIONS_VARIABLE] = shlex.join(self.vm.ssh_options)
        try:
            yield
        finally:
            if before is None:
                del os.environ[OPTIONS_VARIABLE]
            else:
                os.environ[OPTIONS_VARIABLE] = before

    @contextmanager
    def api(self) -> Iterator[Client]:
        """The appliance's API."""
        with self.environment(), connect(host=self.vm.destination, runner=self.runner) as client:
            yield client

    @contextmanager
    def commands(self) -> Iterator["Commands"]:
        """The commands, over one login for all of them."""
        with self.environment(), forwarded(self.vm.destination, API_SOCKET, self.runner) as socket:
            yield Commands(self.runner, ("--socket", str(socket)))

    def remote_command(self) -> "Commands":
        """The commands as a user far away has them: a login each."""
        env = {OPTIONS_VARIABLE: shlex.join(self.vm.ssh_options)}
        return Commands(Runner(env), ("--host", self.vm.destination))

    @contextmanager
    def guest(self, clone: str) -> Iterator[Machine]:
        """A guest that boots from the clone on this machine, at its login prompt.

        A crash that is known to be the emulator's own doing is tried once more.
        """
        target = guest.NbdTarget(clone, host=LOOPBACK, port=self.vm.port(NBD_PORT))
        with ExitStack() as stack:
            try:
                machine, _ = stack.enter_context(guest.booted(self.runner, target, deadline=GUEST_DEADLINE))
            except MachineFault as error:
                if error.fault not in guest.EMULATOR_FAULTS:
                    raise
                machine, _ = stack.enter_context(guest.booted(self.runner, target, deadline=GUEST_DEADLINE))
            machine.process.signal(signal.SIGCONT)
            yield machine

    # -- looking

    def failed_units(self) -> str:
        """The units that failed; empty when all is well."""
        return self.vm.ssh(["systemctl", "--failed", "--plain", "--no-legend"]).stdout

    def disks(self, *drives: Drive) -> str:
        """What the beginnings of disks hold; when none is named, of all of them, and what settings there are."""
        names = [drive.by_id for drive in drives or self.vm.drives]
        script = 'for disk; do head -c 4M "$disk" | sha256sum; done'
        settings = "" if drives else "; find /etc/hatchery -type f"
        return self.vm.ssh(["sh", "-c", script + settings, "sh", *names], check=False).stdout

    def report(self) -> str:
        """What helps to understand a failure."""
        words = ["journalctl", "--no-pager", "--lines=80", "--unit=hatchery*", "--output=short-monotonic"]
        return f"{self.vm.machine.console.tail(15)}\n--\n{self.vm.ssh(words, check=False, timeout=60).stdout}"


@dataclass(frozen=True)
class Commands:
    """``hatchery`` with the words that lead to the appliance."""

    runner: Runner
    where: tuple[str, ...]

    def run(self, *words: str, timeout: float = 600) -> Completed:
        """Run a command, whatever comes of it."""
        argv = [sys.executable, "-m", "appliance.cli.main", *self.where, "--json", *words]
        return self.runner.run(argv, timeout=timeout, check=False)

    def get(self, *words: str) -> Any:
        """Run a command that must succeed; return its JSON."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *words: str) -> tuple[int, dict[str, str]]:
        """Run a command that must fail; return its exit status and its error."""
        done = self.run(*words)
        assert done.returncode != 0, done.stdout
        error: dict[str, str] = json.loads(done.stdout)["error"]
        return done.returncode, error


class Shell:
    """A session on a guest's serial console, as the sample guest's demonstration user."""

    def __init__(self, machine: Machine) -> None:
        self._console = machine.console
        self._console.send("hatchery\n")
        self._console.wait_for("Password: ", deadline=90)
        self._console.send("hatchery\n")
        self._console.wait_for("$ ", deadline=120)

    def run(self, command: str, *, deadline: float = 60) -> str:
        """Run a command line; return what it printed. The exit status must be 0."""
        before = len(self._console.text)
        # The terminal echoes the line, so the words that mark the end are not in it as they are printed.
        self._console.send(f"{command} && echo E''ND-OK || echo E''ND-BAD\n")
        self._console.wait_for("END-OK", deadline=deadline, faults=("END-BAD",))
        said = self._console.text[before:]
        return said[said.find("\n") + 1 : said.find("END-OK")]

    def follow(self, machine: Machine) -> None:
        """Go on with the same session on the console of the machine that its guest has migrated to."""
        self._console = machine.console
