"""The machine of the demo and the appliance tests."""

import shlex
from pathlib import Path

from appliance.model import GIB
from appliance.run import Runner
from bench import demo
from bench.drives import HARD_DISK, Bus, Drive, drive_words
from bench.steps import clock
from bench.vm import VM, Key, free_ports


def test_a_slow_disk_is_throttled_and_an_nvme_drive_is_not() -> None:
    disk = drive_words(Drive("D1", Bus.SCSI, GIB, HARD_DISK), Path("/vm/D1.raw"), "drive1", "none")
    assert disk[0] == "-drive"
    assert {"throttling.iops-total=150", "throttling.bps-total=150000000", "cache=none"} <= set(disk[1].split(","))
    assert disk[3].startswith("scsi-hd,")
    assert "serial=D1" in disk[3].split(",")
    nvme = drive_words(Drive("N0", Bus.NVME, GIB), Path("/a,b/N0.raw"), "drive0", "none")
    assert "throttling" not in nvme[1]
    assert nvme[1].endswith("file=/a,,b/N0.raw")
    assert nvme[3] == "nvme,drive=drive0,serial=N0"


def test_a_drive_may_have_large_sectors() -> None:
    large = drive_words(Drive("D1", Bus.SCSI, GIB, sector=4096), Path("/vm/D1.raw"), "drive1", "none")
    assert {"logical_block_size=4096", "physical_block_size=4096"} <= set(large[3].split(","))


def test_stable_names() -> None:
    assert Drive("N0", Bus.NVME, GIB).by_id == "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_N0"
    assert Drive("D1", Bus.SCSI, GIB).by_id == "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_D1"


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def machine(folder: Path) -> VM:
    key = folder / "ssh-key"
    key.write_text("private")
    key.with_name("ssh-key.pub").write_text("ssh-ed25519 AAAA hatchery\n")
    return VM(folder, folder / "image.raw", (demo.NVME, *demo.DISKS), Key(key), Runner(), forwards=(demo.NBD_PORT,))


def test_the_inventory_reaches_the_machine_and_names_its_disks(tmp_path: Path) -> None:
    vm = machine(tmp_path)
    found = demo.inventory(vm, tmp_path / "guest.qcow2")
    host = found["hatchery"]["hosts"]["demo"]
    assert host["ansible_port"] == vm.port(22) != vm.port(demo.NBD_PORT)
    assert f"Port={vm.port(22)}" in shlex.split(host["ansible_ssh_common_args"])
    assert len({*host["nvme_cache_devices"], *host["backend_raid_disks"]}) == 4
    clients = [{"name": "demo", "address": "10.0.2.15", "port": 10809, "plain": True}]
    assert host["nbd_access_clients"] == clients


def test_what_is_told_of_ansibles_output() -> None:
    assert (
        demo.told_task("TASK [nvme_cache : Partition the cache drive] *****")
        == "nvme_cache : Partition the cache drive"
    )
    assert demo.told_task('fatal: [demo]: FAILED! => {"msg": "no"}') is not None
    assert demo.told_task("ok: [demo]") is None


def test_spans_of_time() -> None:
    assert [clock(value) for value in (0, 59.9, 60, 3671)] == ["0:00", "0:59", "1:00", "61:11"]
