"""The owner's keys for Secure Boot: when a build takes them, what it does with them, and what it refuses."""

import base64
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from imagebuild import __main__ as program
from imagebuild import addon, bundle, secure_boot
from imagebuild.command import BuildError
from imagebuild.disk import Identity, identity
from imagebuild.kinds import KINDS, ROOT, place
from imagebuild.mkosi import Mkosi

APPLIANCE = KINDS["appliance"]
NOW = time.time()
END = NOW + 1000 * 86400
"""When every certificate ends, in seconds since the epoch."""


def pair(folder: Path, name: str = "somebody") -> Path:
    """A folder with a key and its certificate, as far as these tests look into them."""
    folder.mkdir()
    (folder / secure_boot.KEY).write_text(f"private {name}")
    body = base64.b64encode(name.encode()).decode()
    (folder / secure_boot.CERTIFICATE).write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    return folder


def openssl(words: Sequence[str | Path]) -> str:
    """openssl as it is asked here: a public key is its owner's name."""
    text = Path(words[3]).read_text()
    if words[1] == "pkey":
        return text.removeprefix("private ")
    if "-pubkey" in words:
        return base64.b64decode(text.splitlines()[1]).decode()
    assert words[-1] == "-enddate"
    return f"notAfter={time.strftime('%b %d %H:%M:%S %Y GMT', time.gmtime(END))}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pair(tmp_path_factory.mktemp("keys") / "mine")


@pytest.fixture(autouse=True)
def _no_keys_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(secure_boot.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(secure_boot, "capture", openssl)
    monkeypatch.setattr(secure_boot, "need_tools", lambda _: None)


def found(folder: Path, now: float = NOW) -> secure_boot.Keys:
    keys = secure_boot.find(folder, now)
    assert keys is not None
    return keys


# --- where they are


def test_keys_are_looked_for_in_the_users_configuration_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert secure_boot.home() == tmp_path / "config/hatchery/secure-boot"
    monkeypatch.setenv(secure_boot.VARIABLE, str(tmp_path / "other"))
    assert secure_boot.home() == tmp_path / "other"


def test_without_keys_there_are_none_but_a_folder_that_was_named_must_have_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert secure_boot.find(tmp_path, NOW) is None
    assert secure_boot.find(tmp_path / "not there", NOW) is None
    monkeypatch.setenv(secure_boot.VARIABLE, str(tmp_path))
    with pytest.raises(BuildError, match="no keys"):
        secure_boot.find(tmp_path, NOW)


@pytest.mark.parametrize("lost", [secure_boot.KEY, secure_boot.CERTIFICATE])
def test_half_of_a_pair_is_refused(tmp_path: Path, folder: Path, lost: str) -> None:
    half = tmp_path / "half"
    half.mkdir()
    for name in {secure_boot.KEY, secure_boot.CERTIFICATE} - {lost}:
        (half / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(BuildError, match="incomplete") as refusal:
        secure_boot.find(half, NOW)
    assert refusal.value.why == f"{half} has no {lost}"


def test_halves_of_two_pairs_are_refused(tmp_path: Path, folder: Path) -> None:
    mixed = pair(tmp_path / "mixed", "somebody else")
    (mixed / secure_boot.KEY).write_bytes((folder / secure_boot.KEY).read_bytes())
    with pytest.raises(BuildError, match="do not belong together"):
        secure_boot.find(mixed, NOW)


def test_a_certificate_that_ended_is_refused_and_one_that_soon_will_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secure_boot.find(folder, END - 100 * 86400)
    assert capsys.readouterr().err == ""
    secure_boot.find(folder, END - 10 * 86400)
    assert "ends on" in capsys.readouterr().err
    with pytest.raises(BuildError, match="has ended") as refusal:
        secure_boot.find(folder, END)
    assert "good until" in refusal.value.why


def test_keys_in_the_checkout_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no place for private keys"):
        secure_boot.find(folder, NOW, root=folder.parent)
    with pytest.raises(BuildError, match="no place for private keys"):
        secure_boot.make(tmp_path / "checkout/keys", Mkosi(tmp_path), root=tmp_path / "checkout")


# --- making them


class Maker(Mkosi):
    """mkosi, of which only `genkey` is played."""

    def prepare(self) -> None:
        """Nothing is needed."""

    def genkey(self, folder: Path, *, name: str, days: int) -> None:
        """Make a pair."""
        assert days > 365
        made = pair(folder / "made", name)
        for file in made.iterdir():
            file.rename(folder / file.name)
        made.rmdir()


def test_keys_are_made_for_their_owner_alone_and_never_over_others(tmp_path: Path) -> None:
    target = tmp_path / "config/hatchery/secure-boot"
    keys = secure_boot.make(target, Maker(tmp_path))
    assert (keys.key.parent, keys.certificate.parent) == (target, target)
    assert target.stat().st_mode & 0o777 == 0o700
    assert keys.key.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    with pytest.raises(BuildError, match="already"):
        secure_boot.make(target, Maker(tmp_path))
    assert found(target) == keys


# --- what is built with them


def test_without_keys_nothing_changes() -> None:
    assert secure_boot.signed(APPLIANCE, None) is APPLIANCE
    assert not any("secure" in word for kind in KINDS.values() for word in kind.arguments)


def test_the_appliance_and_its_updates_are_signed_and_nothing_else(folder: Path) -> None:
    keys = found(folder)
    for kind in (APPLIANCE, bundle.kind("0.2.0")):
        words = secure_boot.signed(kind, keys).arguments
        assert words[: len(kind.arguments)] == kind.arguments
        assert words[len(kind.arguments) :] == (
            "--secure-boot=yes",
            "--secure-boot-auto-enroll=yes",
            *("--secure-boot-key", str(folder / "mkosi.key")),
            *("--secure-boot-certificate", str(folder / "mkosi.crt")),
        )
    for name in ("guest", "lab"):
        assert secure_boot.signed(KINDS[name], keys) is KINDS[name]


def test_images_of_different_keys_lie_apart(tmp_path: Path, folder: Path) -> None:
    mine = found(folder)
    where = tmp_path / "keys"
    other = found(pair(where, "somebody else"))
    same_place = secure_boot.Keys(mine.key, mine.certificate, other.digest)
    kinds = [APPLIANCE, *(secure_boot.signed(APPLIANCE, keys) for keys in (mine, other, same_place))]
    assert len({place(kind, tmp_path) for kind in kinds}) == len(kinds)


def test_a_folder_may_have_braces_in_its_name() -> None:
    keys = secure_boot.Keys(Path("/a{b}/mkosi.key"), Path("/a{b}/mkosi.crt"), "00")
    words = [word.format(root="/inputs") for word in secure_boot.signed(APPLIANCE, keys).arguments]
    assert {"/a{b}/mkosi.key", "/a{b}/mkosi.crt"} <= set(words)


def test_the_command_builds_what_the_keys_say(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def where(words: Sequence[str]) -> str:
        assert program.main([*words, "--where"]) == 0
        return capsys.readouterr().out.strip()

    monkeypatch.setenv("HATCHERY_CACHE", str(tmp_path))
    plain, guest = where(["appliance"]), where(["guest"])
    assert plain == str(place(APPLIANCE, tmp_path) / "appliance.raw")
    monkeypatch.setenv(secure_boot.VARIABLE, str(folder))
    assert where(["guest"]) == guest
    assert where(["appliance"]) == str(place(secure_boot.signed(APPLIANCE, found(folder)), tmp_path) / "appliance.raw")
    monkeypatch.setenv(secure_boot.VARIABLE, str(tmp_path / "nothing"))
    assert program.main(["appliance", "--where"]) == 1
    assert "no keys" in capsys.readouterr().err


# --- what identifies a box


def test_credentials_of_a_signed_image_are_kernel_arguments() -> None:
    who = Identity("ssh-ed25519 AAAA me\n", "attic")
    assert addon.arguments(who) == (
        "systemd.set_credential_binary=ssh.authorized_keys.root:c3NoLWVkMjU1MTkgQUFBQSBtZQo="
        " systemd.set_credential_binary=system.hostname:YXR0aWM="
    )


def test_a_key_of_any_usual_type_fits_with_a_network_and_too_many_are_refused(tmp_path: Path) -> None:
    network = tmp_path / "static.network"
    network.write_text("[Match]\nType=ether\n\n[Network]\nAddress=192.0.2.10/24\nGateway=192.0.2.1\nDNS=192.0.2.1\n")
    keys = tmp_path / "keys.pub"
    one = f"ssh-rsa {'A' * 716}== me@example\n"
    keys.write_text(one)
    assert len(addon.arguments(identity(keys, "attic", network))) < addon.MOST
    keys.write_text(one * 2)
    with pytest.raises(BuildError, match="too long"):
        addon.arguments(identity(keys, "attic", network))


def test_the_images_own_kernel_arguments_leave_room() -> None:
    text = (ROOT / "mkosi.conf").read_text()
    (own,) = [line for line in text.splitlines() if line.startswith("KernelCommandLine=")]
    hashes = len(" usrhash=") + 64
    assert len(own) - len("KernelCommandLine=") + hashes + 1 + addon.MOST < 2048
