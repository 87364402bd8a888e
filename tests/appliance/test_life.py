"""The life of an appliance: built, booted, refused, deployed, used, misused, cut off from power, rebooted."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bootset.trace import parse_trace
from appliance.run import Runner
from appliance.wait import until
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import ADDRESS, CLIENT, DISKS, NBD_PORT, NVME, ROOT, TEMPLATE, Play, Shell, Site
from tests.appliance.stack import NVME_LABELS, at_rest, cache_is
from tests.appliance.users import KEPT_AT, await_index, backend_bytes, qemu_io, serves, verifying, writing

CLONE = "web"
KEPT = "kept over the power cut"


def test_the_image_boots_with_no_failed_unit(site: Site) -> None:
    done = site.vm.ssh(["systemctl", "is-system-running", "--wait"], timeout=300, check=False)
    assert done.stdout.strip() == "running", site.failed_units()
    assert site.failed_units() == ""


def test_the_console_shows_the_address_above_its_login_prompt(site: Site) -> None:
    shown = re.compile(rf"Hatchery\s+address +{re.escape(ADDRESS)} .*\n.*? login: ", re.DOTALL)
    until(lambda: shown.search(site.vm.machine.console.text), "the address on the console", deadline=300, interval=1)


def test_only_what_the_preset_names_is_enabled(site: Site) -> None:
    preset = (ROOT / "mkosi.extra/usr/lib/systemd/system-preset/00-hatchery.preset").read_text(encoding="utf-8")
    named = sorted(line.split()[1] for line in preset.splitlines() if line.startswith("enable "))
    # At run time generators enable what the root file system needs.
    words = ["systemctl", "list-unit-files", "--state=enabled,linked", "--plain", "--no-legend"]
    assert sorted(line.split()[0] for line in site.vm.ssh(words).stdout.splitlines()) == named


def test_nothing_runs_and_nobody_has_a_password_before_it_is_deployed(site: Site) -> None:
    states = site.vm.ssh(["systemctl", "is-active", "hatchery-store", "hatcheryd"], check=False).stdout.split()
    assert states == ["inactive", "inactive"]
    hashes = site.vm.ssh(["cut", "-d:", "-f1,2", "/etc/shadow"]).stdout.splitlines()
    assert hashes
    assert [line for line in hashes if line.partition(":")[2][:1] not in {"!", "*"}] == []


@pytest.mark.heavy
def test_check_mode_says_what_it_would_do_and_does_nothing(site: Site) -> None:
    before = site.disks()
    play = site.play("--check", "--diff")
    assert play.failed == 0, play.said
    assert play.changed >= 3
    assert "+devices = " in play.said, "the diff of the settings is missing"
    assert site.disks() == before


@pytest.mark.heavy
def test_a_missing_disk_is_refused(site: Site) -> None:
    absent = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_DISK9"
    play = site.play(backend_raid_disks=[DISKS[0].by_id, DISKS[1].by_id, absent])
    assert play.failed == 1
    assert absent in play.said


def test_a_disk_with_a_foreign_signature_is_refused_and_left_as_it_is(site: Site) -> None:
    site.vm.ssh(["mkfs.ext4", "-q", "-L", "precious", DISKS[1].by_id], timeout=300)
    before = site.disks()
    assert len(before.splitlines()) >= 1 + len(DISKS)
    for words in (("--check",), ()):
        play = site.play(*words)
        assert (play.failed, play.changed) == (1, 0), play.said
        assert "ext4" in play.said
        assert DISKS[1].serial in play.said
    assert site.disks() == before, "neither the disks nor the NVMe drive nor the settings are touched"
    assert "precious" in site.vm.ssh(["blkid", "-p", DISKS[1].by_id]).stdout


SYSTEM_DISK = "/dev/disk/by-id/virtio-SYSTEM"


def test_the_system_disk_is_refused_and_left_as_it_is(site: Site) -> None:
    head = ["sh", "-c", f"head -c 1M {SYSTEM_DISK} | sha256sum"]
    before = site.disks(), site.vm.ssh(head).stdout
    wanted = [DISKS[0].by_id, DISKS[2].by_id, SYSTEM_DISK]
    # Even with the words that wipe what another disk holds.
    play = site.play(backend_raid_disks=wanted, backend_raid_wipe=True, backend_raid_wipe_serials=["SYSTEM"])
    assert (play.failed, play.changed) == (1, 0), play.said
    assert f"{SYSTEM_DISK} holds the running system" in " ".join(play.said.split())
    assert (site.disks(), site.vm.ssh(head).stdout) == before


def test_the_playbook_deploys(deployed: Play) -> None:
    assert deployed.failed == 0, deployed.said
    assert deployed.changed >= 3


@pytest.mark.usefixtures("deployed")
def test_the_system_shows_what_was_deployed(site: Site) -> None:
    """One NVMe drive and three disks: read by lsblk, mdadm and sysfs, and by nothing of ours."""
    stack = at_rest(site)
    backend, meta = stack.arrays["backend"], stack.arrays["meta"]
    serials = tuple(sorted(disk.serial for disk in DISKS))
    assert (backend.level, backend.policy, backend.places, backend.members) == ("raid5", "ppl", 3, serials)
    assert (meta.level, meta.members) == ("raid1", (NVME.serial, "an array"))
    assert stack.labels[NVME.serial] == NVME_LABELS
    assert stack.labels["backend"] == ["hatchery-meta", "hatchery-data"]
    assert cache_is(stack, "writethrough")


AGAIN_AT_MOST = 1 / 3
"""Share of the first run's time that a second one, which changes nothing, may take."""


@pytest.mark.heavy
def test_a_second_run_changes_nothing_and_is_soon_through(
    site: Site, deployed: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deployed.failed == 0, deployed.said
    looked = site.play("--check")
    assert (looked.failed, looked.changed) == (0, 0), looked.said
    again = site.play()
    assert (again.failed, again.changed) == (0, 0), again.said
    share = again.seconds / deployed.seconds
    with capsys.disabled():  # also when all is well
        print(f"\nfirst run: {deployed.seconds:.1f} s, second: {again.seconds:.1f} s, {share:.0%} of it")
    assert share < AGAIN_AT_MOST


@pytest.mark.usefixtures("deployed")
def test_status_is_healthy(site: Site) -> None:
    status = site.remote_command().get("status")
    assert status["health"] == "ok", status["problems"]
    assert status["problems"] == []
    assert status["store"]["cache"]["settings_ok"] is True
    assert {client["name"] for client in status["clients"]} == {"local", CLIENT}
    learning = site.remote_command().get("template", "show", TEMPLATE)["learning"]
    assert learning["cannot"] == "", "its clones' boots are not learned"
    assert site.failed_units() == ""


def truncated(folder: Path, good: Path) -> Path:
    made = folder / "truncated.qcow2"
    made.write_bytes(good.read_bytes()[: 2 << 20])
    return made


def with_backing_file(folder: Path, good: Path) -> Path:
    made = folder / "backed.qcow2"
    Runner().run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", good, made])
    return made


def too_large(folder: Path, _: Path) -> Path:
    made = folder / "large.raw"
    made.touch()
    os.truncate(made, 64 << 30)
    return made


BAD_IMAGES: dict[str, tuple[Callable[[Path, Path], Path], int, str]] = {
    "a truncated qcow2": (truncated, 3, "bad-image"),
    "a qcow2 with a backing file": (with_backing_file, 3, "bad-image"),
    "a template larger than the pool": (too_large, 8, "no-space"),
}


@pytest.mark.parametrize(
    "case",
    [case if case == "a truncated qcow2" else pytest.param(case, marks=pytest.mark.heavy) for case in BAD_IMAGES],
)
def test_a_bad_image_is_refused_and_leaves_nothing(case: str, site: Site, deployed: Play, tmp_path: Path) -> None:
    assert deployed.failed == 0
    make, status, code = BAD_IMAGES[case]
    file = make(tmp_path, site.template)
    with site.commands() as hatchery:
        before = hatchery.get("status")["store"]["pool"]["data_used"], hatchery.get("template", "list")
        refused, error = hatchery.refusal("template", "add", "bad", str(file))
        after = hatchery.get("status")["store"]["pool"]["data_used"], hatchery.get("template", "list")
    assert (refused, error["code"]) == (status, code), error
    assert error["what"]
    assert error["why"] or error["hint"]
    assert after == before


@pytest.mark.usefixtures("deployed")
def test_bad_names_are_refused(site: Site) -> None:
    with site.commands() as hatchery:
        assert hatchery.refusal("template", "add", "../etc", str(site.template))[0] == 3
        assert hatchery.refusal("clone", "create", "x", "--template", "missing")[0] == 4
        assert hatchery.refusal("clone", "create", "Not A Name", "--template", TEMPLATE)[0] == 3
        assert hatchery.refusal("clone", "show", "missing")[0] == 4
        assert hatchery.get("clone", "list") == []


@pytest.fixture(scope="module")
def clone(site: Site, deployed: Play) -> str:
    """A clone that a guest booted from and wrote a file to."""
    assert deployed.failed == 0, deployed.said
    with site.commands() as hatchery:
        [view] = hatchery.get("clone", "create", CLONE, "--template", TEMPLATE, "--client", CLIENT)
        assert hatchery.refusal("clone", "create", CLONE, "--template", TEMPLATE)[0] == 5
        assert view["uri"] == f"nbd://10.0.2.15:{NBD_PORT}/{CLONE}"
    with site.guest(CLONE) as machine:
        Shell(machine).run(f"echo '{KEPT}' > kept && sync")
        with site.commands() as hatchery:
            # One writer: it stays with the client that has it.
            assert hatchery.refusal("clone", "attach", CLONE, "local")[0] == 6
            assert hatchery.refusal("clone", "remove", CLONE)[0] == 6
            assert hatchery.refusal("template", "remove", TEMPLATE)[0] == 6
    return CLONE


def test_a_clone_boots_to_its_login_prompt_and_writes(clone: str, site: Site) -> None:
    with site.commands() as hatchery:
        assert hatchery.get("clone", "show", clone)["written_bytes"] > 0
        # By the kernel's tracepoints, which User-Mode Linux has not. What goes has booted: nothing more is waited for.
        hatchery.get("clone", "detach", clone)
        learned = until(
            lambda: hatchery.get("template", "show", TEMPLATE)["boot_set"], "the boot set", deadline=180, interval=5
        )
        hatchery.get("clone", "attach", clone, CLIENT)
    assert learned["runs"] == 1
    assert learned["total_bytes"] > 20 << 20


@pytest.mark.heavy
def test_a_power_cut_loses_nothing_and_leaves_the_cache_warm(clone: str, site: Site) -> None:
    with site.api() as api:
        reads = parse_trace(api.boot_trace(TEMPLATE))
    # The guest's kernel may have asked for no flush at its end, so this is what was acknowledged last.
    qemu_io(site, clone, f"write -q -P 165 {KEPT_AT} 1M", "flush")
    await_index(site)
    site.vm.power_cut()
    site.vm.start()
    site.vm.wait_ssh(deadline=BOOT_DEADLINE)
    serves(site)

    def boot() -> None:
        qemu_io(
            site, clone, f"read -q -P 165 {KEPT_AT} 1M", *(f"read -q {read.offset} {read.length}" for read in reads)
        )

    with site.api() as api:
        assert [view.name for view in api.clones()] == [clone]
        wanted, missed = backend_bytes(api, clone, boot)
    assert wanted > 20 << 20
    assert missed <= wanted / 100, f"{missed} of {wanted} bytes came from the backend: the cache was cold"


@pytest.mark.heavy  # what was written last is read above, and a guest's boot takes minutes
def test_a_guest_that_boots_again_finds_its_file(clone: str, site: Site) -> None:
    with site.guest(clone) as machine:
        assert KEPT in Shell(machine).run("cat kept")


@pytest.mark.heavy  # a clean end and a start are the kernel tier's too, and here the power cut is harder
def test_a_clean_reboot_brings_everything_back(clone: str, site: Site) -> None:
    with writing(site, clone), verifying(site, clone):
        site.vm.reboot(deadline=BOOT_DEADLINE)
        serves(site)
    with site.commands() as hatchery:
        status = hatchery.get("status")
        assert status["health"] == "ok", status["problems"]
        assert hatchery.get("clone", "show", clone)["state"] == "ready"


@pytest.mark.heavy
def test_a_service_that_hangs_is_started_again_and_no_guest_notices(clone: str, site: Site) -> None:
    show = ["systemctl", "show", "--property=MainPID,ActiveState,NRestarts", "hatcheryd"]

    def state() -> dict[str, str]:
        return dict(line.split("=", 1) for line in site.vm.ssh(show).stdout.splitlines())

    def started_again() -> bool:
        now = state()
        return now["ActiveState"] == "active" and now["MainPID"] not in {"0", before["MainPID"]}

    with writing(site, clone):
        before = state()
        site.vm.ssh(["kill", "-STOP", before["MainPID"]])
        until(started_again, "another hatcheryd", deadline=300, interval=2)
    assert int(state()["NRestarts"]) == int(before["NRestarts"]) + 1
    words = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--boot", "--unit=hatcheryd"]
    assert "Watchdog timeout" in site.vm.ssh(words).stdout
    serves(site)


def test_a_clone_is_removed(clone: str, site: Site) -> None:
    with site.commands() as hatchery:
        hatchery.get("clone", "remove", clone)
        assert hatchery.get("clone", "list") == []
