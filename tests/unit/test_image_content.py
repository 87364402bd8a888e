"""What lies beside an image, and what its /usr may weigh: on pieces of a real build."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from imagebuild import contents, sbom, usr
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


@pytest.mark.parametrize(
    "name",
    ["gcc", "gcc-14", "g++-14-x86-64-linux-gnu", "cpp", "clang-19", "binutils", "binutils-x86-64-linux-gnu", "make"],
)
def test_an_image_with_a_compiler_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "appliance.manifest"
    packages = manifest()["packages"]
    file.write_text(json.dumps(manifest(packages=[*packages, {**packages[0], "name": name}])))
    with pytest.raises(BuildError) as caught:
        contents.check(file)
    assert str(caught.value).startswith("the image holds a compiler\n")
    assert name in caught.value.why


def test_what_only_sounds_like_a_compiler_is_none(tmp_path: Path) -> None:
    file = tmp_path / "appliance.manifest"
    first = manifest()["packages"][0]
    names = ("gcc-14-base", "libgcc-s1", "libllvm19", "makedev", "python3-jinja2")
    file.write_text(json.dumps(manifest(packages=[{**first, "name": name} for name in names])))
    contents.check(file)
    contents.check(MANIFEST)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"packages": [{}]}'])
def test_an_unreadable_manifest_is_no_image_without_a_compiler(text: str, tmp_path: Path) -> None:
    file = tmp_path / "appliance.manifest"
    file.write_text(text)
    with pytest.raises(BuildError, match="cannot be told"):
        contents.check(file)


def test_an_initrd_is_held_to_its_size(tmp_path: Path) -> None:
    file = tmp_path / "initrd.cpio.zst"
    with pytest.raises(BuildError, match="was not kept"):
        contents.check_initrd(file)
    file.write_bytes(bytes(5000))
    assert contents.check_initrd(file) == 5000
    with pytest.raises(BuildError, match="too large"):
        contents.check_initrd(file, most=4999)
