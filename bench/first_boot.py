"""``script/image test-boot``: the built image's first boot in QEMU, to its login prompt and to a running system."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance.errors import HatcheryError, Unhealthy
from appliance.measure import qemu
from appliance.run import Runner
from bench.vm import VM, Key

DEADLINE = 900.0
"""Seconds until the prompt; emulated on a busy machine it takes minutes."""


def boot(image: Path, folder: Path, runner: Runner) -> str:
    """Boot the image once, on a copy, with an empty system disk behind it; what came of it, in words.

    Raises Unhealthy when a unit failed, MachineFault, DeadlineExceeded, NotReady.
    """
    with VM(folder, image, (), Key.create(folder, runner), runner) as vm:
        vm.start()
        prompt = vm.wait_login(deadline=DEADLINE)
        vm.wait_ssh(deadline=DEADLINE)
        state = vm.ssh(["systemctl", "is-system-running", "--wait"], timeout=DEADLINE, check=False).stdout.strip()
        if state != "running":
            failed = vm.ssh(["systemctl", "--failed", "--plain", "--no-legend"]).stdout.strip()
            raise Unhealthy(f"the system is {state}", why=failed, hint="see the console and the units' logs")
        spent = vm.ssh(["systemd-analyze", "time"], check=False).stdout.strip().splitlines()
        console = vm.ssh(["cat", "/run/issue.d/hatchery.issue"], check=False).stdout.strip()
    how = "emulated, without KVM" if qemu.accelerator().emulated else "with KVM"
    return "\n".join([f"first boot: login prompt after {prompt:.0f} s ({how}), no failed unit", *spent[:1], console])


def main(argv: Sequence[str] | None = None) -> int:
    """Boot the image that is named; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench.first_boot", description=__doc__)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the appliance's disk image; it is not written to")
    image: Path = parser.parse_args(argv).image
    folder = Path(tempfile.mkdtemp(prefix="hatchery-boot-", dir="/var/tmp"))
    try:
        sys.stdout.write(boot(image, folder, Runner()) + "\n")
    except HatcheryError as error:
        sys.stderr.write(f"test-boot: {error}\n")
        return 1
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
