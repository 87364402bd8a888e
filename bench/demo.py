"""``script/demo``: from nothing to booted clones and a table of results, in virtual machines on one host."""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from appliance.client import Client, connect
from appliance.errors import HatcheryError, NotReady, Unhealthy
from appliance.measure import plots, qemu
from appliance.model import GIB
from appliance.remote import OPTIONS_VARIABLE
from appliance.run import Runner
from appliance.wait import until
from bench import keep, results, sections
from bench.drives import HARD_DISK, Bus, Drive
from bench.steps import Steps, clock
from bench.vm import LOOPBACK, VM, Hardware, Key

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

TEMPLATE = "debian-13"
CLIENT = "demo"
NBD_PORT = 10809
GUEST_ADDRESS = "10.0.2.15"
"""The address that QEMU's user networking gives its machine (QEMU: docs/system/devices/net.rst)."""

NVME = Drive("NVME0", Bus.NVME, 8 * GIB)
DISKS = tuple(Drive(f"DISK{number}", Bus.SCSI, 2 * GIB, HARD_DISK) for number in (1, 2, 3))

BOOT_DEADLINE = 600.0
RESYNC_DEADLINE = 1200.0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="script/demo",
        description="Build the images, boot the appliance in QEMU with one NVMe drive and three slow disks, deploy it"
        " with the playbook, register a template, boot clones of it over NBD, and print what was measured."
        " Everything is removed afterwards. Takes up to 30 minutes without KVM, 6 with it.",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "demo", metavar="DIR",
        help="where the results go: results.txt, results.json, results.html, demo.log (default: build/demo)",
    )  # fmt: skip
    parser.add_argument(
        "--clones", type=int, default=4,
        help="how many clones to boot cold and warm in a run, besides one with a prefetched cache (default: 4)",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=1, help="how often to start with an empty cache (default: 1)")
    parser.add_argument("--update-docs", action="store_true", help="write docs/results.md from this run")
    parser.add_argument(
        "--keep", action="store_true", help="leave the appliance and its clones running, and say how to use them"
    )
    parser.add_argument("--stop", type=Path, metavar="DIR", help="end what --keep left running in DIR, and remove it")
    chosen = parser.parse_args(argv)
    if chosen.clones < 1 or chosen.runs < 1:
        parser.error("--clones and --runs are whole numbers from 1")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    chosen = arguments(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        if chosen.stop is not None:
            keep.stop(chosen.stop)
            return 0
        return demo(chosen)
    except HatcheryError as error:
        print(f"\nError: {error.what}", file=sys.stderr)
        for name, text in (("why", error.why), ("do", error.hint)):
            if text:
                print(f"  {name}: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything was removed.", file=sys.stderr)
        return 130


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def demo(chosen: argparse.Namespace) -> int:
    """The whole demo. Leaves nothing running and no file but the results, whatever happens (unless ``--keep``)."""
    plots.require()
    output: Path = chosen.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    accel = qemu.accelerator()
    with ExitStack() as stack:
        steps = Steps(output / "demo.log")
        stack.callback(steps.close)
        if accel.emulated:
            steps.tell("this machine has no KVM: QEMU emulates, and everything takes ten times as long")
        images = {kind: built(steps, kind) for kind in ("guest", "appliance")}
        folder = Path(tempfile.mkdtemp(prefix="hatchery-demo-", dir="/var/tmp"))
        cleaning = stack.enter_context(_removed(steps, folder))
        vm = stack.enter_context(machine(folder, images["appliance"], outlive=chosen.keep))
        with steps.step("Boot the appliance"):
            vm.start()
            vm.wait_ssh(deadline=BOOT_DEADLINE)
        environment = child_environment(vm)
        with steps.step("Deploy with the playbook, and register the template"):
            steps.run(
                [tool("ansible-playbook"), "-i", inventory_file(vm, images["guest"]), ROOT / "ansible" / "deploy.yml"],
                env=environment,
                shown=told_task,
            )
        stack.enter_context(ssh_options(environment))
        with connect(host=vm.destination, runner=vm.runner) as client, steps.step("Wait for the array's first sync"):
            synced(steps, client)
        with steps.step(f"Boot {(chosen.clones + 1) * chosen.runs} clones over NBD and measure"):
            words: list[str | Path] = [
                sys.executable, "-m", "appliance.cli.main", "--host", vm.destination, "measure", "boot",
                "--template", TEMPLATE, "--runs", str(chosen.runs), "--clones", str(chosen.clones),
                "--client", CLIENT, "--name", "demo", "--nbd", f"{LOOPBACK}:{vm.port(NBD_PORT)}", "--deadline", "600",
                "--json-file", output / "results.json", "--html", output / "results.html",
                "--text", output / "results.txt", "--history", output / "history",
                *(["--keep-clones"] if chosen.keep else []),
            ]  # fmt: skip
            text = steps.run(words, env=environment, separate_errors=True)
        print("\n" + text)
        total = steps.elapsed
        steps.tell(f"the demo took {clock(total)}; the results are in {output}: results.txt, .json and .html")
        measured = json.loads((output / "results.json").read_text(encoding="utf-8"))
        if chosen.update_docs:
            page = ROOT / "docs" / "results.md"
            fresh = results.page(measured, steps.taken, total)
            page.write_text(sections.carry(page.read_text(encoding="utf-8"), fresh), encoding="utf-8")
            steps.tell(f"{page.relative_to(ROOT)} was written from this run")
        if chosen.keep:
            vm.detach()
            cleaning.keep = True
            keep.write(vm, output, NBD_PORT)
            print(keep.instructions(vm, output, NBD_PORT, CLIENT))
        if measured["warm_enough"] is False:
            raise Unhealthy("warm boots read too much from the backend", hint=f"see {output / 'results.txt'}")
    return 0


class _Cleaning:
    """Whether the demo's folder is to be left."""

    keep = False


@contextmanager
def _removed(steps: Steps, folder: Path) -> Iterator[_Cleaning]:
    """Remove ``folder`` in the end."""
    cleaning = _Cleaning()
    try:
        yield cleaning
    finally:
        if not cleaning.keep:
            shutil.rmtree(folder)
            steps.tell("the appliance's machine and its disks were removed")


def built(steps: Steps, kind: str) -> Path:
    """Build an image, or find it built from the same inputs."""
    with steps.step(f"Build the {kind} image"):
        said = steps.run([ROOT / "script" / "image", kind], env={}, shown=lambda _: None, separate_errors=True)
    return Path(said.strip().splitlines()[-1])


@contextmanager
def machine(folder: Path, image: Path, *, outlive: bool, nvme: Drive = NVME) -> Iterator[VM]:
    """The appliance's machine, switched off; it ends with the block unless it is to outlive this process."""
    runner = Runner()
    with VM(
        folder=folder,
        system=image,
        drives=(nvme, *DISKS),
        key=Key.create(folder, runner),
        runner=runner,
        hardware=Hardware(memory_mib=2048, cpus=2),
        forwards=(NBD_PORT,),
        outlive=outlive,
    ) as vm:
        yield vm


def child_environment(vm: VM) -> Mapping[str, str]:
    """What child programs need to reach the machine; their temporary files go where all is removed."""
    temporary = vm.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        OPTIONS_VARIABLE: shlex.join(vm.ssh_options),
        "TMPDIR": str(temporary),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(temporary / "ansible"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(temporary),
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def ssh_options(environment: Mapping[str, str]) -> Iterator[None]:
    """The options for ssh in this process's environment too, for what reaches the machine by itself."""
    before, os.environ[OPTIONS_VARIABLE] = os.environ.get(OPTIONS_VARIABLE), environment[OPTIONS_VARIABLE]
    try:
        yield
    finally:
        if before is None:
            del os.environ[OPTIONS_VARIABLE]
        else:
            os.environ[OPTIONS_VARIABLE] = before


def tool(name: str) -> Path:
    """A program of the Python environment that runs this."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        raise NotReady(f"{name} is missing", hint="start the demo by script/demo")
    return found


def inventory(vm: VM, template: Path | None, kind: str = "raw") -> dict[str, Any]:
    """The inventory for the playbook: this machine's address, and its disks by their stable names."""
    templates = [] if template is None else [{"name": TEMPLATE, "src": str(template), "format": kind}]
    host = {
        "ansible_host": LOOPBACK,
        "ansible_port": vm.port(22),
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(vm.key.private),
        "ansible_ssh_common_args": shlex.join(vm.ssh_options),
        "nvme_cache_devices": [NVME.by_id],
        "backend_raid_level": "raid5",
        "backend_raid_disks": [disk.by_id for disk in DISKS],
        # Plain NBD: host and machine are the same here, and nobody else reaches the port.
        "nbd_access_clients": [{"name": CLIENT, "address": GUEST_ADDRESS, "port": NBD_PORT, "plain": True}],
        "clone_templates_items": templates,
    }
    return {"hatchery": {"hosts": {"demo": host}}}


def inventory_file(vm: VM, guest: Path | None, kind: str = "raw") -> Path:
    """The same as a file in the machine's folder."""
    file = vm.folder / "inventory.json"
    file.write_text(json.dumps(inventory(vm, guest, kind), indent=2), encoding="utf-8")
    return file


def told_task(line: str) -> str | None:
    """What is told of a line that Ansible prints: the tasks, the summary, and what went wrong."""
    if line.startswith("TASK ["):
        return line.removeprefix("TASK [").split("]")[0]
    return line if line.startswith(("fatal:", "ERROR", "[ERROR]", "demo  ")) else None


def synced(steps: Steps, client: Client) -> None:
    """Wait until the new array's parity is made: until then its disks are busy, and measured times too long."""
    told = -25.0

    def done() -> bool:
        nonlocal told
        array = client.status().store.backend
        if array is None:
            raise NotReady("the backend array cannot be seen", hint="run `hatchery status`")
        if array.sync_percent is None:
            return True
        if array.sync_percent - told >= 25:
            told = array.sync_percent
            steps.tell(f"  {array.sync_action} at {array.sync_percent:.0f} %")
        return False

    until(done, "the array's first sync", deadline=RESYNC_DEADLINE, interval=2)


if __name__ == "__main__":
    sys.exit(main())
