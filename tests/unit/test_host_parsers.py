"""Parsers of the kernel's and the tools' output, on what was recorded from them (tests/data)."""

import binascii
import struct
from pathlib import Path
from typing import cast

import pytest

from appliance.errors import CannotTell, Refused, Unhealthy
from appliance.host import bcache, block, dm_ioctl, dm_stats, kernel, md, md_superblock, mount, partitions, thin
from appliance.host.block import Signature, Statistics
from appliance.host.dm import Dm
from appliance.host.dm_ioctl import Command, Flag, Target
from appliance.host.partitions import Partition, Table
from appliance.host.thin import PoolMode
from appliance.model import MIB, Histogram

DATA = Path(__file__).resolve().parents[1] / "data"


def raw(name: str) -> bytes:
    return (DATA / name).read_bytes()


def text(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


# --- md


def test_a_raid5_members_superblock() -> None:
    found = md_superblock.parse_superblock(raw("mdadm/4.4-raid5-member.bin"))
    assert found is not None
    assert (found.uuid, found.name, found.level) == ("6c0f5c75a514e460c84d94e9529906fc", "hatchery:backend", 5)
    assert (found.chunk, found.raid_disks, found.events, found.write_mostly) == (65536, 3, 30, False)


def test_the_legs_of_a_mirror_know_each_other() -> None:
    fast = md_superblock.parse_superblock(raw("mdadm/4.4-raid1-fast.bin"))
    slow = md_superblock.parse_superblock(raw("mdadm/4.4-raid1-slow.bin"))
    assert fast is not None
    assert slow is not None
    assert fast.uuid == slow.uuid
    assert (fast.write_mostly, slow.write_mostly) == (False, True)
    assert (fast.role_of(slow.device_number), slow.role_of(fast.device_number)) == (1, 0)
    assert slow.role_of(77) is None


@pytest.mark.parametrize("at", [0, 33, 100, 216, 256])
def test_a_damaged_md_superblock_is_none(at: int) -> None:
    damaged = bytearray(raw("mdadm/4.4-raid5-member.bin"))
    damaged[at] ^= 1
    assert md_superblock.parse_superblock(bytes(damaged)) is None


def test_no_md_superblock() -> None:
    assert md_superblock.parse_superblock(bytes(4096)) is None
    assert md_superblock.parse_superblock(b"") is None


@pytest.mark.parametrize(("line", "percent"), [("704260 / 2091008", 33.7), ("none", None), ("delayed", None)])
def test_sync_progress(line: str, percent: float | None) -> None:
    assert md.parse_sync(line) == percent


def test_full_stripes() -> None:
    assert md.full_stripe("raid5", 3, 64) == 128 * 1024
    assert md.full_stripe("raid6", 6, 64) == 256 * 1024
    assert md.full_stripe("raid10", 4, 64) == 128 * 1024
    assert md.full_stripe("raid1", 2, 64) == 4096


# --- bcache


def test_bcache_superblocks() -> None:
    cache = bcache.parse_superblock(raw("bcache/1.0.8-cache.bin"))
    backing = bcache.parse_superblock(raw("bcache/1.0.8-backing.bin"))
    assert cache is not None
    assert backing is not None
    assert (cache.state, cache.block, cache.data_offset) == (None, 512, 0)
    assert cache.uuid == "bd482ae4-ab01-40ed-a59c-3da65ff80fd4"
    assert cache.set_uuid == backing.set_uuid == "aaa4f3e0-e576-4140-8450-8be7c240efca"
    assert (backing.state, backing.data_offset) == (bcache.BackingState.CLEAN, MIB)
    assert bcache.parse_superblock(bytes(4096)) is None


@pytest.mark.parametrize(
    ("printed", "size"),
    [("0.0k", 0), ("4.0M", 4 * MIB), ("512.0k", 524288), ("512", 512), ("1.5G", 1610612736), ("0", 0)],
)
def test_numbers_of_bcache(printed: str, size: int) -> None:
    assert bcache.parse_size(printed) == size


def test_a_number_of_bcache_that_is_none() -> None:
    with pytest.raises(CannotTell):
        bcache.parse_size("many")


def test_the_chosen_mode_and_equal_values() -> None:
    assert bcache.chosen("[writethrough] writeback writearound none") == "writethrough"
    assert bcache.chosen("writethrough writeback [writearound] none") == "writearound"
    assert bcache.same("0.0k", "0")
    assert not bcache.same("4.0M", "0")
    assert not bcache.same("writearound", "writethrough")


# --- block devices


def test_signatures() -> None:
    member = block.parse_signatures(text("wipefs/2.41-md-member.json"))
    assert member == (Signature("linux_raid_member", 4096, "6c0f5c75-a514-e460-c84d-94e9529906fc", "hatchery:backend"),)
    assert [found.kind for found in block.parse_signatures(text("wipefs/2.41-gpt.json"))] == ["gpt", "gpt", "PMBR"]
    assert block.parse_signatures(text("wipefs/2.41-ext4.json"))[0].label == "hatchery-state"
    assert block.parse_signatures('{"signatures": []}') == ()
    with pytest.raises(CannotTell):
        block.parse_signatures("wipefs: error")


def test_statistics() -> None:
    found = block.parse_statistics(text("block/6.12-stat.txt"))
    assert found == Statistics(275, 77682 * 512, 8579, 581491 * 512, 0, 7240)
    with pytest.raises(CannotTell):
        block.parse_statistics("1 2 3")


def test_statistics_of_all_devices() -> None:
    found = block.parse_every_statistics(text("block/6.18-diskstats.txt"))
    assert set(found) == {"7:0", "254:0"}
    assert found["254:0"] == ("vda", Statistics(1928904, 56756276 * 512, 1171760, 270665509 * 512, 411286, 426572))
    assert block.parse_every_statistics("") == {}
    for wrong in ("7 0 loop0 1 2 3", "7 0"):
        with pytest.raises(CannotTell):
            block.parse_every_statistics(wrong)


def test_serial_numbers() -> None:
    assert block.parse_vpd80(b"\0\x80\0\x06 LAB_1") == "LAB_1"
    assert block.parse_vpd80(b"") == ""
    record = "S:disk/by-id/x\nE:ID_SERIAL=QEMU_DISK\nE:ID_SERIAL_SHORT=abc\nE:ID_MODEL=y"
    assert block.parse_udev_serials(record) == ("QEMU_DISK", "abc")


def test_mounts() -> None:
    found = mount.parse(text("mount/6.12-mountinfo.txt"))
    assert found[0].target == "/"
    assert found[-1] == mount.Mount("259:3", "/var/lib/hatchery", "ext4", "/dev/md126p2")
    (blank,) = mount.parse("36 35 98:0 / /mnt/a\\040b rw - ext4 /dev/sda rw\n")
    assert blank.target == "/mnt/a b"


# --- GPT


def test_a_partition_table() -> None:
    table = partitions.parse(raw("sfdisk/2.41-gpt.bin"), 512)
    assert table is not None
    assert table.guid == "cc58686c-3083-483e-87c1-2eb1a87453e3"
    assert (table.first, table.end) == (MIB, 2097119 * 512)
    assert table.partitions == (
        Partition("hatchery-meta", MIB, 256 * MIB, "bb27ac60-fed2-4cd3-8554-e6fbcd148b7f"),
        Partition("hatchery-cache", 257 * MIB, 510 * MIB, "aaa4f3e0-e576-4140-8450-8be7c240efca"),
        Partition("hatchery-fast", 767 * MIB, 256 * MIB, "720e7120-5152-491b-b18a-1d73be311810"),
    )
    assert partitions.parse(bytes(20480), 512) is None


@pytest.mark.parametrize("at", [512 + 56, 1024 + 40])
def test_a_damaged_partition_table_is_an_error_and_not_a_blank_disk(at: int) -> None:
    damaged = bytearray(raw("sfdisk/2.41-gpt.bin"))
    damaged[at] ^= 1
    with pytest.raises(CannotTell, match="damaged"):
        partitions.parse(bytes(damaged), 512)


def test_the_largest_gap() -> None:
    table = Table("x", 34 * 512, 1000 * MIB + 5, (Partition("a", MIB, 99 * MIB), Partition("b", 400 * MIB, 100 * MIB)))
    assert table.largest_gap(MIB) == (500 * MIB, 500 * MIB)
    full = Table("x", MIB, 10 * MIB, (Partition("a", MIB, 9 * MIB),))
    assert full.largest_gap(MIB) == (0, 0)


def test_two_partitions_of_one_name_are_an_error() -> None:
    with pytest.raises(CannotTell):
        Table("x", 0, MIB, (Partition("a", 0, 1), Partition("a", 1, 1))).named("a")


def test_sfdisk_scripts() -> None:
    parts = [Partition("hatchery-meta", MIB, 2 * MIB)]
    assert partitions.script(parts, 512, None) == 'start=2048, size=4096, name="hatchery-meta"\n'
    assert partitions.script(parts, 4096, "ab-cd") == (
        'label: gpt\nlabel-id: AB-CD\nfirst-lba: 256\nstart=256, size=512, name="hatchery-meta"\n'
    )


# --- device-mapper


def test_requests_have_the_kernels_numbers_and_sizes() -> None:
    assert dm_ioctl.HEADER_BYTES == 312
    assert Command.VERSION.request == 0xC138FD00
    assert Command.TARGET_MSG.request == 0xC138FD0E
    packed = dm_ioctl.pack("name", uuid="HATCHERY-x", flags=Flag.SUSPEND, data=b"abc")
    answer = dm_ioctl.unpack(packed)
    assert (answer.info.name, answer.info.uuid, answer.info.suspended) == ("name", "HATCHERY-x", True)
    assert answer.data == b"abc"


def test_targets_survive_packing() -> None:
    targets = (Target(0, 2048, "linear", "/dev/sda 0"), Target(2048, 8, "error", ""), Target(2056, 1, "thin", "x" * 99))
    data = dm_ioctl.pack_targets(targets)
    assert len(data) % 8 == 0
    # A request counts `next` from the target itself, an answer from the first one.
    fixed, offset = bytearray(data), 0
    for _ in targets:
        (size,) = struct.unpack_from("=I", fixed, offset + 20)
        struct.pack_into("=I", fixed, offset + 20, offset + size)
        offset += size
    assert dm_ioctl.unpack_targets(bytes(fixed), 3) == targets


def test_lists_of_devices() -> None:
    def record(dev: int, name: bytes, uuid: bytes, last: bool) -> bytes:
        body = struct.pack("=QI", dev, 0) + name + b"\0"
        body += bytes(-len(body) % 8) + struct.pack("=II", 0, 1 if uuid else 2) + uuid + (b"\0" if uuid else b"")
        body += bytes(-len(body) % 8)
        return body if last else body[:8] + struct.pack("=I", len(body)) + body[12:]

    data = record(0xFE03, b"hatchery-thin-7", b"HATCHERY-thin-7", False) + record(0xFE04, b"other", b"", True)
    first, second = dm_ioctl.unpack_names(data)
    assert (first.name, first.uuid, str(first.number)) == ("hatchery-thin-7", "HATCHERY-thin-7", "254:3")
    assert (second.name, second.uuid, second.number.node) == ("other", "", "dm-4")
    assert dm_ioctl.unpack_names(bytes(16)) == ()


def test_a_pools_status_and_table() -> None:
    lines = {line.partition(":")[0]: line.split()[4:] for line in text("dm/6.12-status.txt").splitlines()}
    found = thin.parse_pool_status(" ".join(lines["hatchery-pool-durable"]))
    assert (found.transaction_id, found.data_used, found.data_total) == (0, 64, 28512)
    assert (found.metadata_used, found.metadata_total) == (4109, 48384)
    assert (found.mode, found.error_if_no_space, found.discard_passdown) == (PoolMode.READ_WRITE, True, False)
    assert not found.needs_check
    assert thin.parse_mapped(" ".join(lines["hatchery-thin-2"])) == 8192 * 512
    tables = {line.partition(":")[0]: line.split()[4:] for line in text("dm/6.12-table.txt").splitlines()}
    assert thin.parse_pool_table(" ".join(tables["hatchery-pool-durable"])) == (
        128,
        frozenset({"no_discard_passdown", "error_if_no_space"}),
    )


def test_pools_that_are_not_well() -> None:
    full = thin.parse_pool_status("3 9/10 8/8 - out_of_data_space no_discard_passdown error_if_no_space needs_check 1")
    assert (full.mode, full.needs_check) == (PoolMode.OUT_OF_DATA_SPACE, True)
    assert thin.parse_pool_status("Fail").mode is PoolMode.FAILED
    for line in ("", "1 2", "x y/z"):
        with pytest.raises(CannotTell):
            thin.parse_pool_status(line)
    with pytest.raises(Unhealthy):
        thin.parse_mapped("Fail")


def test_a_pools_table_keeps_the_rules() -> None:
    words = thin.pool_table(Path("/d"), Path("/m"), length=1 << 20, block=128, low_water=9).params.split()
    assert words == ["/m", "/d", "128", "9", "2", "error_if_no_space", "no_discard_passdown"]


def test_ids_of_thin_devices() -> None:
    assert thin.parse_ids(" 1\n22\n") == {1, 22}
    assert thin.parse_ids("") == frozenset()
    with pytest.raises(CannotTell):
        thin.parse_ids("superblock is corrupt")


def test_latency_histograms() -> None:
    assert dm_stats.parse_list(text("dm/6.12-stats-list.txt")) == 0
    assert dm_stats.parse_list("3: 0+8 8 other -\n") is None
    assert dm_stats.parse_print(text("dm/6.12-stats-print.txt")) == Histogram((0,) * (dm_stats.BUCKETS + 1), 0.0)
    counts = ":".join(["0", "3"] + ["0"] * (dm_stats.BUCKETS - 1))
    found = dm_stats.parse_print(f"0+8192 2 0 16 1500000 1 0 8 2500000 0 3 4 1 2 {counts}")
    assert (found.total, found.seconds) == (3, 0.004), "reads took 1.5 ms, writes 2.5"
    assert len(dm_stats.limits()) == dm_stats.BUCKETS
    assert dm_stats.limits()[:3] == (2, 4, 8)
    with pytest.raises(CannotTell):
        dm_stats.parse_print("0+8 1 2 3 1:2:3")


def test_where_a_device_keeps_its_histogram_is_asked_once() -> None:
    asked: list[str] = []

    class Devices:
        def message(self, name: str, words: str) -> str:
            asked.append(f"{name} {words.split()[0]}")
            return text("dm/6.12-stats-list.txt" if "list" in words else "dm/6.12-stats-print.txt")

    regions = dm_stats.Regions()
    for number in ("254:1", "254:1", "254:7"):
        assert regions.read(cast(Dm, Devices()), "web", number).total == 0
    assert asked == ["web @stats_list", *["web @stats_print"] * 2, "web @stats_list", "web @stats_print"]


# --- the kernel


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.12.117+deb13-amd64", (6, 12, 117)), ("6.12.101", (6, 12, 101)), ("7.0-rc1", (7, 0, 0))],
)
def test_kernel_versions(release: str, version: tuple[int, int, int]) -> None:
    assert kernel.parse_release(release) == version
    kernel.require(release)


@pytest.mark.parametrize("release", ["6.12.99+deb13", "6.1.0-13-amd64", "5.15.200"])
def test_old_kernels_are_refused(release: str) -> None:
    with pytest.raises(Refused, match="too old"):
        kernel.require(release)


def test_the_checksum_of_the_table_is_the_standards() -> None:
    data = raw("sfdisk/2.41-gpt.bin")
    header = bytearray(data[512 : 512 + 92])
    (stored,) = struct.unpack_from("<I", header, 16)
    header[16:20] = bytes(4)
    assert binascii.crc32(header) == stored
