"""What a measurement ran on: the guests' host, the appliance, and the template's boot set."""

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.client import Client
from appliance.measure import qemu
from appliance.model import GIB
from appliance.run import Runner
from appliance.schema import BootSetView, Status


@dataclass(frozen=True, slots=True)
class Facts:
    """When, on which machine and with which appliance."""

    taken: str
    host: str
    guests: str
    appliance: str


def emulator(runner: Runner) -> str:
    """The QEMU that guests boot in."""
    version = runner.run([qemu.QEMU, "--version"]).stdout.splitlines()[0]
    return f"{version}, {'TCG (emulated)' if qemu.accelerator().emulated else 'KVM'}"


def facts(status: Status, guests: str) -> Facts:
    """Facts about this host, what plays the ``guests`` on it, and the appliance that gave ``status``."""
    return Facts(
        taken=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), host=host(), guests=guests, appliance=store(status)
    )


def boot_set(client: Client, template: str) -> BootSetView | None:
    """The template's boot set, with its places; None without one."""
    return None if client.template(template).boot_set is None else client.boot_set(template)


def host() -> str:
    """The machine that this runs on, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"{system(Path('/etc/os-release').read_text())}, {processor(Path('/proc/cpuinfo').read_text())},"
        f" {os.cpu_count()} processors, {memory:.0f} GiB, kernel {kernel(platform.release())}"
    )


def system(os_release: str) -> str:
    """Name of the distribution (os-release(5))."""
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "unknown system"


def processor(cpuinfo: str) -> str:
    """Name of the processor."""
    for line in cpuinfo.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def kernel(release: str) -> str:
    """The version numbers of a kernel's release (uname(2)): what its builder put behind them may name a machine."""
    numbers = re.match(r"\d+(?:\.\d+)*", release)
    return numbers.group() if numbers else "unknown"


def store(status: Status) -> str:
    """The appliance in one line."""
    parts = [f"hatchery {status.version}", f"kernel {status.kernel}"]
    if backend := status.store.backend:
        parts.append(f"{backend.level} of {len(backend.members)} disks ({backend.size / GIB:.1f} GiB)")
    if cache := status.store.cache:
        parts.append(f"{cache.mode} cache of {cache.size / GIB:.1f} GiB")
    return ", ".join(parts)
