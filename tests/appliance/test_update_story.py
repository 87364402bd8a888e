"""Updates from one version of the image to the next, and back.

One story, in its order: a new version comes over HTTPS and is found good while a guest waits; the older one is gone
back to; the new one, now from a folder, is given up for a service that does not start, and for a /usr that cannot be
read; the power is cut while it is written.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from imagebuild import bundle as build

from appliance import rollout
from appliance.run import Process
from appliance.wait import until
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import CLIENT, ROOT, TEMPLATE, Play, Shell, Site
from tests.appliance.test_update import GATEWAY, TRIAL_DEADLINE, status, update
from tests.https_server import ADDRESS, serve

WORDS = "kept over the update"

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def deployed_site(deployed: Play) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)


@dataclass(frozen=True)
class Newer:
    """The bundle of a version that is newer than the one that runs."""

    bundle: Path
    version: str
    older: str


@pytest.fixture(scope="module")
def newer(site: Site) -> Iterator[Newer]:
    older = build.version(None)
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    try:
        words: list[str | Path] = ["--key", site.vm.key.private, "--version", f"{older}.1", "--to", folder / "bundle"]
        site.runner.run([ROOT / "script/image", "bundle", *words], timeout=1800)
        yield Newer(folder / "bundle", f"{older}.1", older)
    finally:
        shutil.rmtree(folder)


def reconnect(site: Site) -> None:
    """The machine was restarted from outside this process: log in anew."""
    site.vm.reconnect(deadline=BOOT_DEADLINE)


def over_https(site: Site, folder: Path, bundle: Path) -> Play:
    """Run the playbook that updates, from a server of the test's own authority."""
    authority = folder / "authority.pem"
    with serve(folder, {file.name: file.read_bytes() for file in bundle.iterdir()}, certified=GATEWAY) as web:
        authority.write_text(web.authority)
        where = {"update_url": web.url.replace(ADDRESS, GATEWAY), "update_ca": str(authority)}
        return site.play(playbook="update", timeout=2 * TRIAL_DEADLINE, update_deadline=TRIAL_DEADLINE, **where)


def test_a_new_version_comes_over_https_and_is_found_good_while_a_guest_waits(
    site: Site, newer: Newer, tmp_path: Path
) -> None:
    with site.commands() as hatchery:
        hatchery.get("clone", "create", "patient", "--template", TEMPLATE, "--client", CLIENT)
    with site.guest("patient") as machine:
        shell = Shell(machine)
        shell.run(f"echo '{WORDS}' > kept && sync")
        play = over_https(site, tmp_path, newer.bundle)
        assert (play.failed, play.changed) == (0, 1), play.said
        reconnect(site)
        assert WORDS in shell.run("sync && cat kept", deadline=600)
    found = status(site)
    assert (found["running"], found["good"], found["given_up"]) == (newer.version, True, None)
    assert site.failed_units() == ""
    with site.commands() as hatchery:
        assert hatchery.get("status")["health"] == "ok"
        hatchery.get("clone", "remove", "patient", "--force")
    again = update(site, newer.bundle)
    assert (again.failed, again.changed) == (0, 0), again.said


def test_the_older_version_is_gone_back_to(site: Site, newer: Newer) -> None:
    site.vm.ssh(["hatchery-update", "back"])
    site.vm.reboot(deadline=BOOT_DEADLINE)
    found = status(site)
    assert (found["running"], found["good"]) == (newer.older, True)
    assert "an operator went back from it" in found["given_up"]
    until(lambda: serving(site), "the appliance to serve", deadline=300, interval=2)


def given_up(site: Site, newer: Newer, why: str) -> None:
    """The older version runs, serves, and says why."""
    found = status(site)
    assert (found["running"], found["good"]) == (newer.older, True)
    assert why in found["given_up"]
    assert {"version": newer.version, "state": "given up"} in found["slots"]

    def told() -> bool:
        return why in site.vm.ssh(["journalctl", "-b", "-u", "hatchery-update-verdict", "-o", "cat"]).stdout

    until(told, "the reason in the log", deadline=300, interval=2)
    until(lambda: complains(site, why), "the reason in the status", deadline=300, interval=2)
    issue = ["cat", "/run/issue.d/hatchery.issue"]
    until(lambda: why in site.vm.ssh(issue).stdout, "the reason on the console", deadline=300, interval=2)
    assert why in site.vm.ssh(["python3", "-c", PAGE]).stdout
    site.vm.ssh(["hatchery-update", "dismiss"])
    until(lambda: site.failed_units() == "" and serving(site), "the appliance to serve", deadline=300, interval=2)
    until(lambda: why not in site.vm.ssh(issue).stdout, "the console to be silent", deadline=300, interval=2)


PAGE = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9750/', timeout=60).read().decode())"


def complains(site: Site, why: str) -> bool:
    """Whether the appliance is degraded for that reason, and for no other."""
    with site.commands() as hatchery:
        status = hatchery.get("status")
    return status["health"] == "degraded" and [why in problem["what"] for problem in status["problems"]] == [True]


def serving(site: Site) -> bool:
    with site.commands() as hatchery:
        return bool(hatchery.get("status")["health"] == "ok")


BROKEN = "/etc/systemd/system/hatcheryd.service.d/broken.conf"


@contextmanager
def broken_in(site: Site, newer: Newer) -> Iterator[None]:
    """A service that starts in the older version alone."""
    condition = f'ExecStartPre=/usr/bin/grep -q IMAGE_VERSION="{newer.older}"$ /usr/lib/os-release'
    script = 'mkdir -p "${1%/*}" && cat > "$1" && systemctl daemon-reload'
    site.vm.ssh(["sh", "-c", script, "sh", BROKEN], stdin=f"[Service]\n{condition}\n")
    try:
        yield
    finally:
        site.vm.ssh(["sh", "-c", 'rm -r "${1%/*}" && systemctl daemon-reload', "sh", BROKEN])


def test_a_version_with_a_broken_service_is_given_up_and_says_why(site: Site, newer: Newer) -> None:
    with broken_in(site, newer):
        play = update(site, newer.bundle, update_again=True)
        assert play.failed == 1
        assert f"version {newer.version} was given up" in play.said
        reconnect(site)
        given_up(site, newer, "hatcheryd.service is failed")


def halves(site: Site, label: str) -> list[str]:
    """The partitions that hold a version."""
    table = json.loads(site.vm.ssh(["sfdisk", "--json", site.vm.system_by_id]).stdout)["partitiontable"]
    return [half["node"] for half in table["partitions"] if half.get("name") == label]


def test_a_version_whose_usr_cannot_be_read_is_given_up(site: Site, newer: Newer) -> None:
    appliance = over_ssh(site)
    with site.environment():
        appliance.send(newer.bundle, sorted(file.name for file in newer.bundle.iterdir()))
        assert appliance.ask("apply", "--again")["steps"]
        appliance.clear()
    both = halves(site, f"hatchery_{newer.version}")
    assert len(both) == 2
    for half in both:
        site.vm.ssh(["dd", "if=/dev/urandom", f"of={half}", "bs=1M", "count=2", "conv=fsync"])
    site.vm.reboot(deadline=TRIAL_DEADLINE)
    given_up(site, newer, "no start of it came so far")


def test_a_power_cut_while_a_slot_is_written_leaves_the_version_that_ran(site: Site, newer: Newer) -> None:
    appliance = over_ssh(site)
    with site.environment():
        appliance.send(newer.bundle, sorted(file.name for file in newer.bundle.iterdir()))
    with applying(site) as process:
        # The larger half is written second. (In brackets: the shell that runs this must not match.)
        until(
            lambda: site.vm.ssh(["pgrep", "-f", "[s]ystemd-import.*usr_"], check=False).returncode == 0,
            "the slot to be written",
            deadline=600,
            interval=0.5,
        )
        assert process.running()
        site.vm.power_cut()
    site.vm.start()
    site.vm.wait_ssh(deadline=BOOT_DEADLINE)
    found = status(site)
    assert (found["running"], found["good"], found["next"]) == (newer.older, True, newer.older)
    until(lambda: serving(site), "the appliance to serve", deadline=300, interval=2)
    with site.environment():
        assert appliance.ask("check", "--again")["steps"]
        appliance.clear()


def over_ssh(site: Site) -> rollout.Appliance:
    return rollout.Appliance(site.vm.destination, site.runner)


@contextmanager
def applying(site: Site) -> Iterator[Process]:
    """``hatchery-update apply`` while it runs."""
    words = [
        "ssh",
        *site.vm.ssh_options,
        site.vm.destination,
        "--",
        f"hatchery-update apply {rollout.INCOMING} --again",
    ]
    with site.runner.start(words) as process:
        yield process
