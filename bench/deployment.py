"""The built appliance in QEMU, deployed by the playbook, for benches that need more than User-Mode Linux has."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.client import Client, connect
from bench import demo
from bench.drives import Drive
from bench.steps import Steps
from bench.vm import VM


@dataclass(frozen=True)
class Deployed:
    """A machine that serves, its API, and what tells of the steps."""

    vm: VM
    client: Client
    steps: Steps


@contextmanager
def deployed(log: Path, *, nvme: Drive = demo.NVME, template: bool = True) -> Iterator[Deployed]:
    """An appliance with the demo's slow disks, and with its template unless told otherwise, which has no clone."""
    with ExitStack() as stack:
        steps = Steps(log)
        stack.callback(steps.close)
        guest = demo.built(steps, "guest").with_name("guest.qcow2") if template else None
        image = demo.built(steps, "appliance")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hatchery-bench-", dir="/var/tmp")))
        vm = stack.enter_context(demo.machine(folder, image, outlive=False, nvme=nvme))
        with steps.step("Boot the appliance"):
            vm.start()
            vm.wait_ssh(deadline=demo.BOOT_DEADLINE)
        environment = demo.child_environment(vm)
        with steps.step("Deploy with the playbook"):
            playbook = demo.ROOT / "ansible" / "deploy.yml"
            inventory = demo.inventory_file(vm, guest, "qcow2")
            words: list[str | Path] = [demo.tool("ansible-playbook"), "-i", inventory, playbook]
            steps.run(words, env=environment, shown=demo.told_task)
        stack.enter_context(demo.ssh_options(environment))
        client = stack.enter_context(connect(host=vm.destination, runner=vm.runner))
        with steps.step("Wait for the array's first sync"):
            demo.synced(steps, client)
        yield Deployed(vm, client, steps)
