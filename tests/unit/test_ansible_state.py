"""Templates and boot sets as the module settles them: once, and in check mode not at all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.bootset import file
from appliance.client import connect
from appliance.errors import InvalidInput, NotFound
from appliance.host import netlink
from appliance.model import Extent, ImageFormat, TemplateState
from appliance.schema import TemplateView
from tests.unit import boot_set_box
from tests.unit.api_server import serving
from tests.unit.boot_set_box import EXTENTS, as_file, settled
from tests.unit.service_harness import IMAGE, Box
from tests.unit.test_ansible_modules import load

template = load("modules/hatchery_template.py", "hatchery_template")


def version(number: int, digest: str | None, *, retired: bool = False, ready: bool = True) -> TemplateView:
    return TemplateView(
        ref=f"debian@{number}",
        name="debian",
        version=number,
        state=TemplateState.READY if ready else TemplateState.IMPORTING,
        size=4096,
        mapped_bytes=None,
        format=ImageFormat.RAW,
        source="upload",
        sha256=digest,
        created=1.0,
        clones=0,
        retired=retired,
        device="/dev/mapper/hatchery-template-1",
        boot_set=None,
        prefetch=None,
    )


def wanted(*, src: Path | None = None, sha256: str | None = None, boot_set: Path | None = None) -> dict[str, Any]:
    return {
        "name": "debian",
        "src": None if src is None else str(src),
        "url": None,
        "path": None,
        "format": "raw",
        "compression": None,
        "sha256": sha256,
        "boot_set": None if boot_set is None else str(boot_set),
    }


def test_an_image_that_is_a_version_already_is_not_imported_again(tmp_path: Path) -> None:
    image = tmp_path / "debian.raw"
    image.write_bytes(b"one")
    digest = hashlib.sha256(b"one").hexdigest()
    other = "b" * 64

    def found(item: dict[str, Any], *versions: TemplateView) -> str | None:
        view = template.version_of(item, versions)
        return None if view is None else str(view.ref)

    assert found(wanted(src=image), version(1, digest), version(2, other)) == "debian@1"
    assert found(wanted(src=image), version(3, digest), version(1, digest)) == "debian@3"
    assert found(wanted(sha256=digest.upper()), version(1, digest)) == "debian@1"
    assert found(wanted(src=image), version(1, other)) is None
    assert found(wanted(sha256=other), version(1, digest)) is None
    assert found(wanted(src=image)) is None
    # A version that goes, or is not there yet, is none.
    assert found(wanted(src=image), version(1, digest, retired=True)) is None
    assert found(wanted(src=image), version(1, digest, ready=False)) is None
    # An image that cannot be looked at leaves a template alone.
    for unknown in (wanted(), wanted(src=tmp_path / "missing.raw")):
        assert found(unknown, version(1, "a" * 64), version(2, other)) == "debian@2"
        assert found(unknown) is None


@pytest.fixture
def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5"}))
    folder = tmp_path / "appliance"
    folder.mkdir()
    with boot_set_box.box(folder, monkeypatch) as made:
        yield made
        settled(made)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    made = tmp_path / "debian.raw"
    made.write_bytes(IMAGE)
    return made


@pytest.fixture
def boot_set(tmp_path: Path) -> Path:
    made = tmp_path / "debian.boot-set"
    made.write_text(as_file())
    return made


def register(appliance: Box, *items: dict[str, Any], check: bool = False) -> dict[str, Any]:
    with serving(appliance), connect(socket=appliance.paths.api_socket) as api:
        done: dict[str, Any] = template.settle(api, {"templates": list(items), "deadline": 60}, check=check)
    return done


def extents(appliance: Box, ref: str) -> tuple[Extent, ...]:
    return file.load(appliance.service.boot_sets.export(ref)).boot_set.extents


def test_an_image_and_its_boot_set_are_registered_once(appliance: Box, image: Path, boot_set: Path) -> None:
    item = wanted(src=image, boot_set=boot_set)
    planned = register(appliance, item, check=True)
    assert appliance.service.list_templates().templates == ()
    done = register(appliance, item)
    assert done == planned
    assert (done["changed"], done["templates"], done["boot_sets"]) == (True, ["debian"], ["debian"])
    assert done["diff"]["before"] == ""
    assert f"debian: a new version of {image}\n" in done["diff"]["after"]
    assert extents(appliance, "debian@1") == EXTENTS
    for check in (True, False):
        again = register(appliance, item, check=check)
        assert again == {"changed": False, "templates": [], "boot_sets": [], "diff": {"before": "", "after": ""}}


def test_another_boot_set_goes_to_the_version_of_the_image(appliance: Box, image: Path, boot_set: Path) -> None:
    register(appliance, wanted(src=image, boot_set=boot_set))
    appliance.add_template("debian", IMAGE[::-1])
    boot_set.write_text(as_file(EXTENTS[:1]))
    item = wanted(src=image, boot_set=boot_set)
    planned = register(appliance, item, check=True)
    assert extents(appliance, "debian@1") == EXTENTS
    assert register(appliance, item) == planned
    assert (planned["templates"], planned["boot_sets"]) == ([], ["debian"])
    assert planned["diff"]["before"].startswith("debian@1: a boot set of ")
    assert planned["diff"]["before"] != planned["diff"]["after"]
    assert extents(appliance, "debian@1") == EXTENTS[:1]
    # The version after it has what was guessed for it, from the one before.
    assert extents(appliance, "debian@2") == EXTENTS
    # The same extents in another order are read in that order.
    boot_set.write_text(as_file(EXTENTS[::-1]))
    register(appliance, item)
    boot_set.write_text(as_file(EXTENTS))
    assert register(appliance, item)["boot_sets"] == ["debian"]


def test_what_is_no_boot_set_is_refused_before_anything_is_imported(
    appliance: Box, image: Path, boot_set: Path, tmp_path: Path
) -> None:
    boot_set.write_text("nonsense")
    for check in (True, False):
        with pytest.raises(InvalidInput, match="no boot set"):
            register(appliance, wanted(src=image, boot_set=boot_set), check=check)
        with pytest.raises(NotFound, match="cannot be read"):
            register(appliance, wanted(src=image, boot_set=tmp_path / "missing"), check=check)
        with pytest.raises(NotFound, match="no image file"):
            register(appliance, wanted(src=tmp_path / "missing"), check=check)
    assert appliance.service.list_templates().templates == ()
