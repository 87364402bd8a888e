"""The drives of a machine in QEMU: how each is connected, how fast it is, and what QEMU is told of it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appliance.measure import qemu
from appliance.model import SECTOR


class Bus(StrEnum):
    """How a drive is connected."""

    NVME = "nvme"
    SCSI = "scsi"


@dataclass(frozen=True, slots=True)
class Pace:
    """A limit on a drive's speed: requests and bytes a second; 0 means none."""

    iops: int = 0
    bytes_per_second: int = 0


HARD_DISK = Pace(iops=150, bytes_per_second=150_000_000)
"""About the pace of a 7,200 rpm disk."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive of the machine: a sparse file of ``size`` bytes, made if absent. ``sector`` is what it reads at least."""

    serial: str
    bus: Bus
    size: int
    pace: Pace = Pace()
    sector: int = SECTOR

    @property
    def by_id(self) -> str:
        """Its stable name in the machine."""
        if self.bus is Bus.NVME:
            return f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{self.serial}"
        return f"/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{self.serial}"


def drive_words(drive: Drive, file: Path, name: str, cache: str) -> list[str]:
    """A drive as words of QEMU's command line; QEMU's own throttling makes it as slow as wanted.

    Zeroes are not stored: a new array's first sync would otherwise fill the host's disk.
    """
    options = f"if=none,id={name},format=raw,cache={cache},discard=unmap,detect-zeroes=unmap,file={qemu.escape(file)}"
    if drive.pace.iops:
        options += f",throttling.iops-total={drive.pace.iops}"
    if drive.pace.bytes_per_second:
        options += f",throttling.bps-total={drive.pace.bytes_per_second}"
    return ["-drive", options, "-device", device_words(drive, name)]


def device_words(drive: Drive, name: str) -> str:
    """What the machine sees of a drive, whose content QEMU knows as ``name``."""
    if drive.bus is Bus.NVME:
        device = f"nvme,drive={name},serial={drive.serial}"
    else:
        device = f"scsi-hd,bus=scsi.0,drive={name},serial={drive.serial},rotation_rate=7200"
    if drive.sector != SECTOR:
        device += f",logical_block_size={drive.sector},physical_block_size={drive.sector}"
    return device
