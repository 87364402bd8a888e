"""Update bundles as they are built and as an appliance reads them, with the real ssh-keygen."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from imagebuild import bundle as build
from imagebuild.command import BuildError

from appliance.errors import HatcheryError, InvalidInput, NotFound, Refused
from appliance.run import Runner
from appliance.update import bundle
from appliance.update.bundle import Contents
from tests.tier import require

VERSION = "0.1.1"
USR = f"hatchery_{VERSION}.usr_{'ab' * 16}.raw.gz"


@dataclass(frozen=True)
class Made:
    """A bundle of a small image, who signed it, and who else has a key."""

    folder: Path
    owner: Path
    stranger: Path

    def read(self, contents: Contents = Contents.VERIFY) -> bundle.Bundle:
        return bundle.read(self.folder, self.allowed, Runner(), contents)

    @property
    def allowed(self) -> str:
        return bundle.signers(Path("/nonexistent"), self.owner.with_suffix(".pub"))

    def sign(self, key: Path) -> None:
        (self.folder / bundle.SIGNATURE).unlink()
        build.sign(self.folder, key)


def key(folder: Path, name: str) -> Path:
    file = folder / name
    Runner().run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file])
    return file


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Made:
    require(shutil.which("ssh-keygen"), "ssh-keygen is needed (package openssh-client)")
    folder = tmp_path_factory.mktemp("image")
    for suffix, size in (("usr_" + "ab" * 16 + ".raw", 8 << 20), ("usr-verity_" + "cd" * 16 + ".raw", 1 << 20)):
        (folder / f"appliance.{suffix}").write_bytes(bytes(size))
    for suffix in ("raw", "efi", "manifest"):
        (folder / f"appliance.{suffix}").write_bytes(suffix.encode())
    owner, stranger = key(folder, "owner"), key(folder, "stranger")
    made = build.make(folder / "appliance.raw", VERSION, owner, folder / "bundle")
    return Made(made, owner, stranger)


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    shutil.copytree(original.folder, tmp_path / "bundle")
    return Made(tmp_path / "bundle", original.owner, original.stranger)


def test_what_was_built_is_accepted(made: Made) -> None:
    found = made.read()
    assert (str(found.version), found.usr_size, found.verity_size, found.uki_size) == (VERSION, 8 << 20, 1 << 20, 3)
    assert found.catalog == build.catalog_form()
    assert {file.name for file in made.folder.iterdir()} == {
        USR,
        f"hatchery_{VERSION}.usr-verity_{'cd' * 16}.raw.gz",
        f"hatchery_{VERSION}.efi",
        f"hatchery_{VERSION}.manifest",
        "bundle.json",
        "SHA256SUMS",
        "SHA256SUMS.sig",
    }


def test_equal_images_give_equal_bundles(original: Made, tmp_path: Path) -> None:
    again = build.make(original.owner.parent / "appliance.raw", VERSION, original.stranger, tmp_path / "again")
    assert (again / "SHA256SUMS").read_text() == (original.folder / "SHA256SUMS").read_text()


def test_a_bundle_is_replaced_and_nothing_else_is(original: Made, tmp_path: Path) -> None:
    image = original.owner.parent / "appliance.raw"
    target = build.make(image, VERSION, original.owner, tmp_path / "bundle")
    assert build.make(image, VERSION, original.owner, target) == target
    (tmp_path / "mine").mkdir()
    with pytest.raises(BuildError, match="is no bundle"):
        build.make(image, VERSION, original.owner, tmp_path / "mine")
    public = tmp_path / "alone.pub"
    shutil.copy(original.owner.with_suffix(".pub"), public)
    with pytest.raises(BuildError, match="ssh-keygen failed"):
        build.make(image, VERSION, public, tmp_path / "unsigned")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["alone.pub", "bundle", "mine"]


def changed(made: Made) -> None:
    with (made.folder / USR).open("r+b") as file:
        file.seek(20)
        file.write(b"!")


def truncated(made: Made) -> None:
    with (made.folder / USR).open("r+b") as file:
        file.truncate(100)


def missing(made: Made) -> None:
    (made.folder / USR).unlink()


def unsigned_file(made: Made) -> None:
    # systemd-sysupdate takes whatever has a name that it looks for.
    shutil.copy(made.folder / USR, made.folder / USR.replace("ab", "ef"))


def changed_list(made: Made) -> None:
    with (made.folder / bundle.SUMS).open("a") as file:
        file.write(f"{'0' * 64}  hatchery_9.efi\n")


def other_signer(made: Made) -> None:
    made.sign(made.stranger)


def other_purpose(made: Made) -> None:
    (made.folder / bundle.SIGNATURE).unlink()
    Runner().run(["ssh-keygen", "-q", "-Y", "sign", "-f", made.owner, "-n", "file", made.folder / bundle.SUMS])


def damaged_signature(made: Made) -> None:
    (made.folder / bundle.SIGNATURE).write_text("-----BEGIN SSH SIGNATURE-----\n")


def changed_description(made: Made) -> None:
    (made.folder / bundle.ABOUT).write_text((made.folder / bundle.ABOUT).read_text().replace("0.1.1", "9.1.1"))


def no_signature(made: Made) -> None:
    (made.folder / bundle.SIGNATURE).unlink()


SPOILED: dict[str, tuple[Callable[[Made], None], type[HatcheryError], str]] = {
    "a changed file": (changed, InvalidInput, "is not what was signed"),
    "a file that was not copied whole": (truncated, InvalidInput, "is not what was signed"),
    "a missing file": (missing, InvalidInput, "the bundle lacks"),
    "a file that was not signed": (unsigned_file, InvalidInput, "did not sign"),
    "a changed list": (changed_list, Refused, "was not signed by"),
    "somebody else's signature": (other_signer, Refused, "was not signed by"),
    "a signature for something else": (other_purpose, Refused, "was not signed by"),
    "a damaged signature": (damaged_signature, Refused, "was not signed by"),
    "a changed description": (changed_description, InvalidInput, "is not what was signed"),
    "no signature": (no_signature, NotFound, "is no update bundle"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_bundle_is_refused(case: str, made: Made) -> None:
    spoil, error, words = SPOILED[case]
    spoil(made)
    with pytest.raises(error, match=words):
        made.read()


def test_the_description_alone_can_be_asked(made: Made) -> None:
    for file in made.folder.glob("hatchery_*"):
        file.unlink()
    assert str(made.read(Contents.IGNORE).version) == VERSION
    other_signer(made)
    with pytest.raises(Refused):
        made.read(Contents.IGNORE)
