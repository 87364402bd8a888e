"""Specifications, names, and the commands that are made of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.config import BackendConfig, CacheMode, Config, NvmeConfig, Part, Paths, RaidLevel, StoreConfig
from appliance.errors import InvalidInput, NoSpace, Refused
from appliance.host import block, md
from appliance.host.block import Device
from appliance.model import GIB
from appliance.store import backend, names, nvme, setup
from appliance.store.machine import Machine
from tests.unit.plans import ID


def test_specifications() -> None:
    spec = setup.parse_spec(Part.NVME, {"devices": [ID + "x"], "meta_bytes": None, "wipe": ["S1"]})
    assert spec == setup.Spec(NvmeConfig((ID + "x",)), frozenset({"S1"}))
    for part, values in (
        (Part.NVME, []),
        (Part.NVME, {"devices": ["/dev/sda"]}),
        (Part.NVME, {"devices": [ID + "x"], "wipe": "S1"}),
        (Part.BACKEND, {"level": "raid5", "disks": [ID + "x"], "chunk_kib": 48}),
        (Part.STORE, {"block_kib": 100}),
        (Part.STORE, {"cache_mode": "writearound"}),
    ):
        with pytest.raises(InvalidInput):
            setup.parse_spec(part, values)


def test_writeback_takes_two_nvme_drives() -> None:
    spec = setup.parse_spec(Part.STORE, {"cache_mode": "writeback"})
    one = Machine(Config(nvme=NvmeConfig((ID + "a",))))
    for doing in setup.Doing:
        with pytest.raises(Refused, match="writeback"):
            setup.run(one, Part.STORE, spec, doing)
    # Nor may the second drive be given up while the mode is writeback.
    back = Machine(Config(store=StoreConfig(cache_mode=CacheMode.WRITEBACK)))
    with pytest.raises(Refused, match="writeback"):
        setup.run(back, Part.NVME, setup.Spec(NvmeConfig((ID + "a",))), setup.Doing.CHECK)


@pytest.mark.parametrize(
    ("fast", "slow", "taken"), [(512, 512, True), (512, 4096, True), (4096, 4096, True), (4096, 512, False)]
)
def test_an_nvme_drive_has_no_larger_sectors_than_the_disks(
    monkeypatch: pytest.MonkeyPatch, fast: int, slow: int, taken: bool
) -> None:
    def find(path: str) -> Device | None:
        sector = {ID + "nvme": fast, ID + "a": slow, ID + "b": slow}.get(path)
        return None if sector is None else Device("x", "8:0", GIB, sector, None, 0)

    monkeypatch.setattr(block, "find", find)
    drive, disks = NvmeConfig((ID + "nvme",)), BackendConfig(RaidLevel.RAID5, (ID + "a", ID + "b", ID + "missing"))
    for config in (Config(), Config(nvme=drive), Config(backend=disks)):
        setup.refuse_large_sectors(config)
    if taken:
        setup.refuse_large_sectors(Config(nvme=drive, backend=disks))
    else:
        with pytest.raises(Refused, match="larger sectors") as caught:
            setup.refuse_large_sectors(Config(nvme=drive, backend=disks))
        assert "512" in caught.value.hint


def test_the_backend_is_made_for_the_blocks_that_the_store_may_get(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = Device("md127p2", "9:1", 1024 * GIB, 512, "md127", 0)
    monkeypatch.setattr(backend, "data_parts", lambda _: (part,))
    monkeypatch.setattr(nvme, "parts", lambda *_: (nvme.Found(replace(part, size=512 << 20), ""),))
    config = Config(
        NvmeConfig((ID + "n",)), BackendConfig(RaidLevel.RAID1, (ID + "a", ID + "b")), paths=Paths(tmp_path)
    )
    spec = setup.parse_spec(Part.STORE, {"block_kib": 64})
    with pytest.raises(NoSpace, match="metadata partition is too small") as caught:
        setup.run(Machine(config), Part.STORE, spec, setup.Doing.CHECK)
    assert "block_kib" in caught.value.hint
    backend.refuse_small_metadata(part.size, 512 << 20, 128 << 10)


def test_a_settings_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "conf.d" / "10-nvme.toml"
    setup.write_file(target, "one\n")
    setup.write_file(target, "two\n")
    assert target.read_text() == "two\n"
    assert [path.name for path in target.parent.iterdir()] == ["10-nvme.toml"]


def test_names() -> None:
    assert names.layer(names.Layer.CLONE, 7) == "hatchery-clone-7"
    assert names.uuid("hatchery-clone-7") == "HATCHERY-clone-7"
    assert names.parse_layer("hatchery-thin-12") == (names.Layer.THIN, 12)
    assert [
        names.parse_data(name) for name in ("hatchery-data", "hatchery-data-2", "hatchery-data-1", "hatchery-meta")
    ] == [
        1,
        2,
        None,
        None,
    ]
    assert [names.data(1), names.data(3)] == ["hatchery-data", "hatchery-data-3"]
    for other in ("hatchery-pool-durable", "hatchery-thin-x", "vg-thin-1", "hatchery-other-1"):
        assert names.parse_layer(other) is None
    with pytest.raises(InvalidInput):
        names.layer(names.Layer.THIN, 1 << 24)


def test_mdadm_makes_what_was_asked() -> None:
    raid5 = md.NewArray("backend", "hatchery", "raid5", 64, md.Consistency.PPL, (Path("/a"), Path("/b"), Path("/c")))
    words = [str(word) for word in md.create_command(raid5)]
    assert "--consistency-policy=ppl" in words
    assert "--assume-clean" not in words
    legs = md.NewArray("meta", "hatchery", "raid1", 0, md.Consistency.BITMAP, (Path("/a"),), (Path("/b"),))
    words = [str(word) for word in md.create_command(legs)]
    assert words[-3:] == ["/a", "--write-mostly", "/b"]
    assert "--bitmap=internal" in words
    assert not any("write-behind" in word for word in words)
    first = md.NewArray("cache", "hatchery", "raid1", 0, md.Consistency.BITMAP, (Path("/a"),), missing=1, size=8 << 20,
                        data_offset=4 << 20, fill=md.Fill.NEVER_READ_UNWRITTEN)  # fmt: skip
    words = [str(word) for word in md.create_command(first)]
    assert words[-2:] == ["/a", "missing"]
    assert {"--raid-devices=2", "--size=8192K", "--data-offset=4096K", "--assume-clean"} <= set(words)
