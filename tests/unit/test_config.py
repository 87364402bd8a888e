from pathlib import Path
from typing import Any

import pytest

from appliance import config
from appliance.config import BackendConfig, CacheMode, NvmeConfig, Part, Paths, RaidLevel, StoreConfig
from appliance.errors import InvalidInput, NotReady

NVME = NvmeConfig(("/dev/disk/by-id/nvme-A",), meta_bytes=1 << 28)
BACKEND = BackendConfig(RaidLevel.RAID5, tuple(f"/dev/disk/by-id/ata-{n}" for n in range(3)))
STORE = StoreConfig()


def write(paths: Paths, part: Part, text: str) -> None:
    paths.conf_d.mkdir(parents=True, exist_ok=True)
    (paths.conf_d / part.file_name).write_text(text, encoding="utf-8")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    paths = Paths(etc=tmp_path)
    sections: dict[Part, config.Section] = {Part.NVME: NVME, Part.BACKEND: BACKEND, Part.STORE: STORE}
    for part, section in sections.items():
        write(paths, part, config.render_section(part, section))
    loaded = config.load(paths)
    assert loaded == config.Config(NVME, BACKEND, STORE, paths)
    assert loaded.require_backend().level is RaidLevel.RAID5
    assert loaded.require_store().cache_mode is CacheMode.WRITETHROUGH


def test_nothing_deployed_is_no_error_until_somebody_needs_it(tmp_path: Path) -> None:
    loaded = config.load(Paths(etc=tmp_path))
    assert loaded.nvme is None
    for need, role in (
        (loaded.require_nvme, "nvme_cache"),
        (loaded.require_backend, "backend_raid"),
        (loaded.require_store, "clone_store"),
    ):
        with pytest.raises(NotReady) as caught:
            need()
        assert role in caught.value.hint


@pytest.mark.parametrize(
    ("part", "values", "says"),
    [
        (Part.NVME, {"devices": []}, "list of devices"),
        (Part.NVME, {"devices": ["/dev/nvme0n1"]}, "by-id"),
        (Part.NVME, {"devices": ["/dev/disk/by-id/../../sda"]}, "by-id"),
        (Part.NVME, {"devices": ["/dev/disk/by-id/a", "/dev/disk/by-id/a"]}, "twice"),
        (Part.NVME, {"devices": ["/dev/disk/by-id/a"], "colour": "red"}, "colour"),
        (Part.NVME, {"devices": ["/dev/disk/by-id/a"], "meta_bytes": -1}, "whole number"),
        (Part.NVME, {"devices": ["/dev/disk/by-id/a"], "meta_bytes": True}, "whole number"),
        (Part.NVME, {}, "devices"),
        (Part.BACKEND, {"level": "raid0", "disks": ["/dev/disk/by-id/a"]}, "raid5"),
        (Part.STORE, {"cache_mode": "writearound"}, "writethrough"),
        (Part.STORE, {"reserve_percent": -1}, "whole number"),
        (Part.STORE, {"overcommit_percent": "much"}, "whole number"),
    ],
)
def test_bad_settings_name_the_file_and_the_setting(part: Part, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config.parse_section(part, values, "inventory")
    assert str(caught.value).startswith("inventory")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["not toml", "[backend]\n", "[nvme]\ndevices=['/dev/disk/by-id/a']\n[other]\n", "nvme=1", "\xff"]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    paths = Paths(etc=tmp_path)
    write(paths, Part.NVME, "")
    (paths.conf_d / "10-nvme.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"10-nvme\.toml"):
        config.load(paths)
