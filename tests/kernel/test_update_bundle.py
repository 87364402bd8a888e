"""Update bundles as they are built and as an appliance reads them, with the real ssh-keygen."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from imagebuild import bundle as build
from imagebuild.command import BuildError

from appliance.config import Paths
from appliance.errors import HatcheryError, InvalidInput, NotFound, NotReady, Refused
from appliance.host.partitions import Partition
from appliance.images.http_source import UrlSource
from appliance.run import Runner
from appliance.update import bundle, main, offer, version
from appliance.update.bundle import Contents
from appliance.update.offer import Web
from appliance.update.plan import Install, Steps
from appliance.update.record import Record
from appliance.update.slots import USR as USR_KIND
from appliance.update.slots import USR_VERITY, Slots, Uki
from appliance.update.spool import Patience, Spool
from tests.https_server import Site, serve
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


@pytest.fixture
def site(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serve(tmp_path, {file.name: file.read_bytes() for file in made.folder.iterdir()}) as served:
        yield served


def fetched(site: Site, made: Made, spool: Path) -> AbstractContextManager[Web]:
    place = offer.place(site.url, UrlSource, authority=site.authority)
    return offer.fetched(place, Spool(spool), made.allowed, Runner(), Patience(tries=1, pause=0))


def take(site: Site, made: Made, spool: Path) -> None:
    with fetched(site, made, spool) as offered:
        offered.read()
        offered.complete()


def test_a_bundle_at_a_url_is_fetched_when_its_signature_counts(made: Made, site: Site, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with fetched(site, made, spool) as offered:
        found = offered.read()
        assert (found.folder, str(found.version)) == (spool, VERSION)
        assert not list(spool.glob("hatchery_*"))
        offered.complete()
        assert Made(spool, made.owner, made.stranger).read() == found
    assert not spool.exists()


def test_nothing_more_is_asked_for_when_somebody_else_signed(made: Made, site: Site, tmp_path: Path) -> None:
    other_signer(made)
    site.files[bundle.SIGNATURE] = (made.folder / bundle.SIGNATURE).read_bytes()
    with pytest.raises(Refused, match="was not signed by"), fetched(site, made, tmp_path / "spool") as offered:
        offered.read()
    assert len(site.asked) == 3
    assert not (tmp_path / "spool").exists()


def test_nothing_is_left_of_a_bundle_with_a_changed_file(made: Made, site: Site, tmp_path: Path) -> None:
    site.files[USR] = site.files[USR][:-1] + b"!"
    with fetched(site, made, tmp_path / "spool") as offered:
        offered.read()
        with pytest.raises(InvalidInput, match=f"{USR} is not what was signed"):
            offered.complete()
    assert not (tmp_path / "spool").exists()


def test_what_broke_off_is_kept_until_it_is_gone_on_with(made: Made, site: Site, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    site.breaks[USR] = [100, 0]
    with pytest.raises(NotReady, match="broke off"):
        take(site, made, spool)
    assert (spool / f"{USR}.part").stat().st_size == 100
    # A server that is away for a while is no reason to throw it away.
    url, site.url = site.url, "https://127.0.0.1:1/bundle/"
    with pytest.raises(NotReady, match="cannot be fetched"):
        take(site, made, spool)
    site.url = url
    site.breaks.clear()
    take(site, made, spool)
    assert f"GET {USR} 100" in site.asked
    assert not spool.exists()


def test_a_look_at_a_url_leaves_nothing(made: Made, site: Site, tmp_path: Path) -> None:
    place = offer.place(site.url, UrlSource, authority=site.authority)
    with offer.looked_at(place, Spool(tmp_path / "spool"), made.allowed, Runner()) as offered:
        folder = offered.read().folder
        offered.check()
    assert not folder.exists()
    assert not (tmp_path / "spool").exists()
    assert not [line for line in site.asked if line.startswith(f"GET {USR}")]
    # A file that the server does not have is seen by a look, too.
    del site.files[USR]
    with offer.looked_at(place, Spool(tmp_path / "spool"), made.allowed, Runner()) as offered:
        offered.read()
        with pytest.raises(NotFound, match="no update bundle"):
            offered.check()


class Box:
    """The program on an appliance of version 0.1.0 that was not deployed, but for what only its image has."""

    def __init__(self, made: Made, site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        self.paths = Paths(etc=folder / "etc", state=folder / "state")
        self.spool = folder / "record" / main.SPOOL
        self.authority = folder / "authority.pem"
        self.paths.etc.mkdir()
        shutil.copy(made.owner.with_suffix(".pub"), self.paths.etc / main.SIGNERS)
        self.authority.write_text(site.authority)
        self.running = version.parse("0.1.0")
        self.written: list[str] = []
        # Without systemd there is no unit that fetches; without the image there are no slots.
        monkeypatch.setattr("appliance.images.fetch.confined", lambda *_, **__: UrlSource)
        monkeypatch.setattr("appliance.update.slots.boot_folder", lambda _: folder)
        monkeypatch.setattr("appliance.update.slots.observe", lambda _: self.slots())
        monkeypatch.setattr("appliance.update.trial.ailments", lambda *_, **__: ())
        monkeypatch.setattr("appliance.update.main.Record", lambda: Record(folder / "record"))
        monkeypatch.setattr("appliance.reconcile.apply", self.apply)

    def slots(self) -> Slots:
        halves = [
            Partition(name, 0, 1 << 30, "", kind)
            for name in (f"hatchery_{self.running}", "_empty")
            for kind in (USR_VERITY, USR_KIND)
        ]
        return Slots(self.running, (Uki(self.running),), tuple(halves), free=1 << 30)

    def apply(self, steps: Steps, _: object) -> None:
        """What stands at the place of systemd-sysupdate: all files are there, and no others."""
        (step,) = steps
        assert isinstance(step, Install)
        self.written = sorted(file.name for file in step.bundle.folder.iterdir())

    def run(self, *words: str) -> int:
        return main.run(main.parser().parse_args(words), Runner(), self.paths)

    def web(self) -> tuple[str, ...]:
        return self.site.url, "--ca", str(self.authority)


@pytest.fixture
def appliance(made: Made, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(made, site, tmp_path, monkeypatch)


def test_the_program_shows_what_is_in_a_folder_and_at_a_url(
    made: Made, appliance: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([str(made.folder)], appliance.web()):
        assert appliance.run("show", "--json", *words) == main.OK
        found = json.loads(capsys.readouterr().out)
        assert (found["version"], found["catalog"]) == (VERSION, build.catalog_form())
    with pytest.raises(NotFound, match="--ca takes the file"):
        appliance.run("show", appliance.site.url, "--ca", "/nonexistent.pem")


def test_the_program_fetches_what_it_writes_and_leaves_nothing(
    made: Made, appliance: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    assert appliance.run("check", "--json", *appliance.web()) == main.OK
    assert len([line for line in appliance.site.asked if line.startswith("GET")]) == 3
    planned = json.loads(capsys.readouterr().out)
    assert [step["action"] for step in planned["steps"]] == ["write"]
    assert appliance.written == []
    assert appliance.run("apply", "--json", *appliance.web()) == main.OK
    assert json.loads(capsys.readouterr().out) == planned
    assert appliance.written == sorted(file.name for file in made.folder.iterdir())
    assert not appliance.spool.exists()


def test_the_program_fetches_nothing_of_what_it_does_not_want(appliance: Box) -> None:
    appliance.running = version.parse("0.2")
    for verb in ("check", "apply"):
        with pytest.raises(Refused, match="is not newer"):
            appliance.run(verb, *appliance.web())
    appliance.running = version.parse(VERSION)
    assert appliance.run("apply", *appliance.web()) == main.OK
    assert not [line for line in appliance.site.asked if "hatchery_" in line]
    assert not appliance.spool.exists()


def test_applying_another_bundle_removes_what_broke_off(made: Made, appliance: Box) -> None:
    appliance.spool.mkdir(parents=True)
    (appliance.spool / f"{USR}.part").touch()
    assert appliance.run("apply", str(made.folder)) == main.OK
    assert appliance.written == sorted(file.name for file in made.folder.iterdir())
    assert not appliance.spool.exists()
