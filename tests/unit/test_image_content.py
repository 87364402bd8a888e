"""What lies beside an image, and what its /usr may weigh: on pieces of a real build."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from imagebuild import sbom, usr
from imagebuild.command import BuildError

DATA = Path(__file__).resolve().parents[1] / "data/mkosi"
MANIFEST = DATA / "25.3-some-packages.json"
EROFS = (DATA / "6.12-erofs-superblock.bin").read_bytes()
RECORDED = 52707 * 4096


def manifest(**change: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MANIFEST.read_text())
    return {**found, **change}


def test_every_package_is_in_the_bill_of_materials(tmp_path: Path) -> None:
    target = tmp_path / "appliance.cdx.json"
    sbom.write(MANIFEST, target)
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["metadata"]["component"]["name"] == "hatchery"
    assert [part["name"] for part in bill["components"]] == [package["name"] for package in manifest()["packages"]]
    purls = {part["name"]: part["purl"] for part in bill["components"]}
    # An epoch's colon and a plus sign are written as purl wants them.
    assert purls["zlib1g"] == (
        "pkg:deb/debian/zlib1g@1%3A1.3.dfsg%2Breally1.3.1-1%2Bdeb13u1?arch=amd64&distro=debian-trixie"
    )
    assert purls["libstdc++6"].startswith("pkg:deb/debian/libstdc%2B%2B6@")
    assert purls["adduser"].endswith("?arch=all&distro=debian-trixie")
    references = [part["bom-ref"] for part in bill["components"]]
    assert len(set(references)) == len(references)


def test_the_same_packages_give_the_same_bill_and_others_another() -> None:
    one = sbom.bill(manifest())
    assert one == sbom.bill(manifest(packages=manifest()["packages"][::-1]))
    assert one["serialNumber"].startswith("urn:uuid:")
    assert one["serialNumber"] != sbom.bill(manifest(packages=manifest()["packages"][1:]))["serialNumber"]


@pytest.mark.parametrize(
    "change",
    [{"manifest_version": 2}, {"config": {}}, {"packages": [{"type": "rpm"}]}, {"packages": [{"name": "a"}]}],
)
def test_a_manifest_of_another_form_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(BuildError, match="cannot be read"):
        sbom.bill(manifest(**change))


def test_a_manifest_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="left no list of packages"):
        sbom.write(tmp_path / "appliance.manifest", tmp_path / "appliance.cdx.json")
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_usr_is_what_its_file_system_takes() -> None:
    assert usr.size(EROFS) == RECORDED
    # The field that counts blocks, and no other, makes it larger.
    more = bytearray(EROFS)
    more[1024 + 36 : 1024 + 40] = struct.pack("<I", 100_000)
    assert usr.size(bytes(more)) == 100_000 * 4096
    for bad in (b"", bytes(4096), EROFS[:1030]):
        with pytest.raises(ValueError, match=r"too short|no superblock"):
            usr.size(bad)


def test_too_large_a_usr_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="was not split off"):
        usr.check(tmp_path)
    part = tmp_path / "appliance.usr_0123.raw"
    part.write_bytes(EROFS)
    (tmp_path / "appliance.usr-verity_4567.raw").write_bytes(b"")
    assert usr.check(tmp_path) == RECORDED
    assert usr.check(tmp_path, most=RECORDED) == RECORDED
    with pytest.raises(BuildError, match="too large"):
        usr.check(tmp_path, most=RECORDED - 1)
    part.write_bytes(bytes(4096))
    with pytest.raises(BuildError, match="cannot be told"):
        usr.check(tmp_path)
