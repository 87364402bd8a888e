"""Bundles: their versions, who signs them, and what a damaged one is refused for."""

from pathlib import Path
from typing import Any

import pytest
from imagebuild import bundle as build
from imagebuild.command import BuildError

from appliance.catalog import form
from appliance.errors import (
    InvalidInput,
    NotReady,
)
from appliance.update import bundle, version

B = version.parse("0.1.1")
ROOT = Path(__file__).resolve().parents[2]
EXTRA = ROOT / "mkosi.extra"


# --- versions


def test_versions_are_compared_number_by_number() -> None:
    words = ["0.1", "0.1.0", "0.2", "0.10", "1", "1.0.0", "2026.11.28"]
    assert [str(found) for found in sorted(version.parse(word) for word in reversed(words))] == words


@pytest.mark.parametrize("text", ["", "1.", ".1", "01.2", "1.2-rc1", "v1", "1..2", "1 2", "١.٢", "1" * 21, "1.0\n"])
def test_what_is_no_version_is_refused_on_both_sides(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a version"):
        version.parse(text)
    with pytest.raises(BuildError, match="no version"):
        build.version(text)


def test_a_bundle_has_the_version_of_the_image_unless_told() -> None:
    assert build.version("9.8.7") == "9.8.7"
    assert f"ImageVersion={build.version(None)}\n" in (ROOT / "mkosi.conf").read_text()


# --- bundles


def test_who_builds_knows_the_form_of_the_catalog() -> None:
    assert build.catalog_form() == form.KNOWN


def test_who_builds_signs_for_what_the_appliance_verifies() -> None:
    assert build.NAMESPACE == bundle.NAMESPACE


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2mTTDcrGrm4C0SWGmNJwW6zPCq2M0lmDUUvZgFZ7kH"


def test_updates_are_signed_by_those_who_may_log_in_unless_others_are_named(tmp_path: Path) -> None:
    own, logins = tmp_path / "update-signers", tmp_path / "authorized_keys"
    with pytest.raises(NotReady, match="nobody is known"):
        bundle.signers(own, logins)
    logins.write_text(f'# me\n{KEY} me@desk of mine\nfrom="10.0.0.1" {KEY}\ncommand="/bin/x" ssh-rsa AAAA\n')
    assert bundle.signers(own, logins) == f'owner namespaces="hatchery-update" {KEY}\n'
    own.write_text("# nobody\n")
    with pytest.raises(NotReady, match="names no public key"):
        bundle.signers(own, logins)
    own.write_text("sk-ssh-ed25519@openssh.com AAAA\n")
    assert bundle.signers(own, logins) == 'owner namespaces="hatchery-update" sk-ssh-ed25519@openssh.com AAAA\n'


DIGEST = "0" * 64


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"{DIGEST}  other\n",
        f"{DIGEST}  bundle.json\n{DIGEST}  bundle.json\n",
        f"{DIGEST}  bundle.json\n{DIGEST}  ../../etc/passwd\n",
        f"{DIGEST}  bundle.json\n{DIGEST[1:]}  short\n",
        f"{DIGEST}  bundle.json\n\n",
    ],
)
def test_a_damaged_list_of_sums_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="SHA256SUMS is damaged"):
        bundle.parse_sums(text)


ABOUT = {"version": "0.1.1", "catalog": 3, "usr_size": 1, "verity_size": 1, "uki_size": 1}


@pytest.mark.parametrize(
    "values",
    [[], {}, {**ABOUT, "version": 1}, {**ABOUT, "version": "x"}, {**ABOUT, "catalog": "3"}, {**ABOUT, "usr_size": 0},
     {**ABOUT, "uki_size": True}],
)  # fmt: skip
def test_a_damaged_description_is_refused(values: Any) -> None:
    with pytest.raises(InvalidInput):
        bundle.parse_about(Path(), values)


def names(of: str = "0.1.1") -> list[str]:
    identity = "0123456789abcdef" * 2
    stem = f"hatchery_{of}"
    parts = (f"usr_{identity}.raw.gz", f"usr-verity_{identity}.raw.gz", "efi", "manifest")
    return [*(f"{stem}.{part}" for part in parts), "bundle.json"]


def test_a_bundle_is_of_one_version_and_has_each_part_once() -> None:
    bundle.check_names(B, names())
    for wrong in (names()[1:], names("0.1.10"), [*names(), *names("0.1.2")], [*names(), names()[0].replace("0", "f")]):
        with pytest.raises(InvalidInput, match=r"none of version 0\.1\.1"):
            bundle.check_names(B, wrong)


def test_the_transfers_look_for_what_a_bundle_holds() -> None:
    wanted = set()
    for file in (EXTRA / "usr/lib/sysupdate.d").iterdir():
        lines = file.read_text().splitlines()
        pattern = next(line for line in lines if line.startswith("MatchPattern=")).removeprefix("MatchPattern=")
        wanted.add(pattern.replace("@v", "0.1.1").replace("@u", "0123456789abcdef" * 2))
    assert wanted | {"hatchery_0.1.1.manifest", "bundle.json"} == set(names())
