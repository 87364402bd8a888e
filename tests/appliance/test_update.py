"""Updates of a deployed appliance, without a second image: what is asked of it, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from imagebuild import bundle as build

from appliance import rollout
from tests.appliance.site import Play, Site
from tests.https_server import ADDRESS, serve

TRIAL_DEADLINE = 3600
GATEWAY = "10.0.2.2"
"""This machine, as the appliance reaches it (QEMU: docs/system/devices/net.rst)."""


@pytest.fixture(autouse=True)
def deployed_site(deployed: Play) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)


def status(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.vm.ssh(["hatchery-update", "status", "--json"]).stdout)
    return found


def update(site: Site, bundle: Path, *words: str, **change: Any) -> Play:
    """Run the playbook that updates."""
    variables = {"update_bundle": str(bundle), "update_deadline": TRIAL_DEADLINE, **change}
    return site.play(*words, playbook="update", timeout=2 * TRIAL_DEADLINE, **variables)


def small_bundle(folder: Path, version: str, key: Path) -> Path:
    """A bundle that is signed and complete, of an image that would not start."""
    for suffix in ("usr_" + "ab" * 16 + ".raw", "usr-verity_" + "cd" * 16 + ".raw", "raw", "efi", "manifest"):
        (folder / f"appliance.{suffix}").write_bytes(b"nothing")
    return build.make(folder / "appliance.raw", version, key, folder / "bundle")


def test_an_image_that_was_written_to_a_disk_is_good_and_counts_nothing(site: Site) -> None:
    version = build.version(None)
    assert status(site) == {
        "running": version,
        "good": True,
        "next": version,
        "slots": [{"version": version, "state": "runs"}],
        "given_up": None,
    }
    units = ["hatchery-update-trial", "systemd-bless-boot", "hatchery-update-verdict"]
    assert site.vm.ssh(["systemctl", "is-active", *units], check=False).stdout.split() == ["inactive"] * 3


def test_a_deployed_appliance_passes_what_a_new_version_is_asked(site: Site) -> None:
    done = site.vm.ssh(["hatchery-update", "self-test"], timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search("self-test: a clone of .* was written and read over NBD", done.stderr)
    with site.commands() as hatchery:
        assert "hatchery-self-test" not in [clone["name"] for clone in hatchery.get("clone", "list")]


@pytest.mark.heavy
def test_what_the_owner_did_not_sign_is_refused_in_check_mode_too(site: Site, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    site.runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger])
    play = update(site, small_bundle(tmp_path, f"{build.version(None)}.1", stranger), "--check")
    assert play.failed == 1
    assert "was not signed by this appliance's owner" in play.said
    assert site.vm.ssh(["ls", rollout.INCOMING], check=False).returncode != 0


@pytest.mark.heavy
def test_check_mode_shows_the_appliances_plan(site: Site, tmp_path: Path) -> None:
    version = f"{build.version(None)}.1"
    play = update(site, small_bundle(tmp_path, version, site.vm.key.private), "--check", "--diff")
    assert (play.failed, play.changed) == (0, 1), play.said
    assert f"+version {version}" in play.said
    assert len(status(site)["slots"]) == 1


@pytest.mark.heavy
def test_the_version_that_runs_is_not_installed_again(site: Site, tmp_path: Path) -> None:
    play = update(site, small_bundle(tmp_path, build.version(None), site.vm.key.private))
    assert (play.failed, play.changed) == (0, 0), play.said


@pytest.mark.heavy
def test_a_bundle_at_a_url_is_fetched_by_the_appliance_and_refused_when_it_was_changed(
    site: Site, tmp_path: Path
) -> None:
    version = f"{build.version(None)}.1"
    folder = small_bundle(tmp_path, version, site.vm.key.private)
    authority = tmp_path / "authority.pem"
    with serve(tmp_path, {file.name: file.read_bytes() for file in folder.iterdir()}, certified=GATEWAY) as web:
        authority.write_text(web.authority)
        where = {"update_url": web.url.replace(ADDRESS, GATEWAY), "update_deadline": TRIAL_DEADLINE}
        play = site.play("--check", playbook="update", timeout=600, **where)
        assert (play.failed, "certificate does not count" in play.said) == (1, True), play.said
        where["update_ca"] = str(authority)
        play = site.play("--check", "--diff", playbook="update", timeout=600, **where)
        assert (play.failed, play.changed) == (0, 1), play.said
        assert f"+version {version}" in play.said
        web.files[f"hatchery_{version}.efi"] = b"NOTHING"
        play = site.play(playbook="update", timeout=600, **where)
        assert (play.failed, f"hatchery_{version}.efi is not what was signed" in play.said) == (1, True), play.said
    for left in (rollout.INCOMING, "/var/lib/hatchery-update/spool"):
        assert site.vm.ssh(["ls", left], check=False).returncode != 0
    assert len(status(site)["slots"]) == 1
    assert site.vm.ssh(["systemctl", "list-units", "--plain", "--no-legend", "hatchery-fetch@*"]).stdout == ""
