"""Backups of metadata and catalog, a lost catalog put back, and what a start does without one."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.inside import rescue
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

BACKUPS = "/var/lib/hatchery/backups"


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    yield running
    print(running.job.stderr)


def backup(lab: Lab) -> str:
    """Make one; its folder."""
    return lab.run(["hatchery-store", "backup"], timeout=120).stderr.strip().splitlines()[-1]


def clones(lab: Lab) -> dict[str, dict[str, Any]]:
    said = json.loads(lab.run(["hatchery", "--json", "clone", "list"]).stdout)
    return {clone["name"]: clone for clone in said}


def test_a_backup_holds_the_metadata_and_the_catalog_of_one_moment(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "web", "debian", 2)
    first = backup(lab)
    found = lab.call(rescue.manifest, first)
    assert found["transaction_id"] == found["catalog_transaction_id"] == lab.call(inside.used)["transaction"]
    assert set(found["files"]) >= {"catalog.db", "metadata.xml.zst", "conf.d/30-store.toml"}
    assert lab.call(rescue.dumped, first) == lab.call(inside.volumes) == [1, 2, 3]
    # Nothing is left of the snapshot that it was read from, and a cut-off one is removed.
    lab.run(["mkdir", f"{BACKUPS}/20200101T000000Z.new"])
    for _ in range(3):
        backup(lab)
    assert lab.call(rescue.held_root) is None
    assert len(lab.run(["ls", BACKUPS]).stdout.split()) == 3
    assert first.rpartition("/")[2] not in lab.run(["ls", BACKUPS]).stdout
    assert lab.call(inside.status)["problems"] == []
    said = json.loads(lab.run(["hatchery", "store", "backup", "--json"]).stdout)
    assert said["path"].startswith(BACKUPS)
    assert (said["catalog"], said["dump"], said["transaction_id"]) == (True, True, found["transaction_id"])
    # An archive for elsewhere holds the same.
    lab.run(["hatchery-store", "backup", "--to", "/run"])
    assert "metadata.xml.zst" in lab.run(["sh", "-c", "tar -tf /run/hatchery-*.tar"]).stdout


@pytest.mark.heavy
def test_without_room_the_catalog_is_kept_and_the_status_says_so(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    whole = backup(lab)
    lab.call(rescue.fill_state)
    for _ in range(4):
        done = lab.run(["hatchery-store", "backup"], check=False)
        assert done.returncode != 0
        assert "does not fit" in done.stderr
    found = lab.run(["ls", BACKUPS]).stdout.split()
    # The newest three, and the newest that has a dump.
    assert len(found) == 4
    assert whole.rpartition("/")[2] in found
    assert "does not fit" in json.dumps(lab.call(inside.status)["problems"])
    lab.call(inside.clones, "web", "debian")


@pytest.mark.heavy
def test_a_lost_catalog_is_not_replaced_by_an_empty_one_and_comes_back(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "old", "debian", 2)
    lab.call(inside.qemu_io, "nbd+unix:///old-1?socket=/run/hatchery/nbd/local/nbd.sock", "write -P 5 1M 64k", "flush")
    backup(lab)
    # What the backup does not know: a clone, a template with a clone of its own, and a clone that is gone.
    lab.call(inside.clones, "late", "debian")
    lab.call(inside.add_image, "fedora", 2)
    lab.call(inside.clones, "later", "fedora")
    lab.run(["hatchery", "clone", "remove", "old-2"])
    digests = lab.call(inside.digest, 1), lab.call(inside.digest, 2)
    late = clones(lab)
    ids = lab.call(rescue.ids)
    volumes = lab.call(inside.volumes)
    daemon.stop()

    for loss in ("remove", "garble", "empty"):
        lab.call(rescue.lose_catalog, loss)
        done = lab.run(["hatcheryd"], check=False, timeout=60)
        assert done.returncode != 0, loss
        assert "hatchery-store restore" in done.stderr, loss
    shown = lab.run(["hatchery-store", "restore"]).stdout
    assert "--yes" in shown
    told = json.loads(lab.run(["hatchery", "--json", "store", "restore"]).stdout)
    assert told == {"restored": False, "said": shown.splitlines()}
    assert lab.run(["hatcheryd"], check=False, timeout=60).returncode != 0
    said = lab.run(["hatchery-store", "restore", "--yes"]).stdout
    assert f"recovered-{ids['late']}" in said
    assert "old-2 is in the backup and not in its pool" in said

    daemon.begin()
    found = clones(lab)
    assert set(found) == {"old-1", "old-2", f"recovered-{ids['late']}", f"recovered-{ids['later']}"}
    assert found[f"recovered-{ids['late']}"]["template"] == late["late"]["template"]
    assert found[f"recovered-{ids['late']}"]["size"] == late["late"]["size"]
    assert found[f"recovered-{ids['later']}"]["template"] == f"recovered-{ids['fedora']}@1"
    assert lab.call(inside.volumes) == volumes
    socket = "socket=/run/hatchery/nbd/local/nbd.sock"
    said = lab.call(inside.qemu_io, f"nbd+unix:///old-1?{socket}", "read -P 5 1M 64k")
    assert "verification failed" not in said
    for name, digest in (("late", digests[0]), ("later", digests[1])):
        lab.run(["hatchery", "clone", "attach", f"recovered-{ids[name]}", "local"])
        assert lab.call(inside.read_back, f"nbd+unix:///recovered-{ids[name]}?{socket}") == digest
    lab.call(inside.clones, "new", "debian")


@pytest.mark.heavy
def test_without_any_backup_every_volume_is_kept_under_a_new_name(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "web", "debian", 2)
    daemon.stop()
    lab.call(rescue.lose_catalog, "remove")
    refused = lab.run(["hatchery-store", "restore", "--yes"], check=False)
    assert refused.returncode == 2
    assert "--without-backup" in refused.stderr
    lab.run(["hatchery-store", "restore", "--without-backup", "--yes"])
    daemon.begin()
    found = clones(lab)
    assert set(found) == {"recovered-2", "recovered-3"}
    assert {clone["template"] for clone in found.values()} == {"recovered-1@1"}
