"""Imports into the real pool: what is taken, what is refused, and that nothing is left of the latter."""

from collections.abc import Iterator

import pytest

from appliance.model import MIB
from tests.kernel.inside import fetching
from tests.kernel.inside import service as inside
from tests.kernel.lab import InsideError, Lab
from tests.kernel.service_lab import Daemon


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    yield running
    print(running.job.stderr)


def clone_digest(lab: Lab, template: str) -> str:
    (clone,) = lab.call(inside.clones, f"of-{template}", template)
    digest: str = lab.call(inside.read_back, clone["uri"])
    return digest


def test_raw_and_qcow2_give_the_same_disk(daemon: Daemon) -> None:
    lab = daemon.lab
    files = lab.call(inside.make_images)
    for name, file, kind in (
        ("raw", "disk.raw", "raw"),
        ("plain", "plain.qcow2", "qcow2"),
        ("packed", "packed.qcow2", "qcow2"),
    ):
        made = lab.call(inside.add, name, files[file], kind)
        assert made["size"] == inside.IMAGE_MIB * MIB
        assert made["mapped_bytes"] == 4 * MIB, name
        assert clone_digest(lab, name) == lab.call(inside.digest), name
    assert [name for name in lab.call(inside.devices) if "staging" in name] == []
    assert len(lab.call(inside.volumes)) == 6

    # What comes packed is unpacked on its way, and gets its size when all is there.
    for name, file in (("raw-xz", "disk.raw.xz"), ("qcow2-zst", "plain.qcow2.zst")):
        lab.run(["hatchery", "template", "add", name, "--path", files[file]])
        view = lab.call(fetching.view, name)
        assert (view["size"], view["mapped_bytes"]) == (inside.IMAGE_MIB * MIB, 4 * MIB), name
        assert clone_digest(lab, name) == lab.call(inside.digest), name
    done = lab.run(["hatchery", "template", "add", "bad", "--path", files["disk.raw.gz"]], check=False)
    assert "cannot be unpacked as gz" in done.stderr
    assert len(lab.call(inside.volumes)) == 10


def test_bad_images_are_refused_and_nothing_is_left(daemon: Daemon) -> None:
    lab = daemon.lab
    files = lab.call(inside.make_images)
    before = lab.call(inside.used)["data"]
    for file, kind, code, words in (
        ("cut.qcow2", "qcow2", "BadImage", "truncated"),
        ("backed.qcow2", "qcow2", "BadImage", "backing file"),
        ("outside.qcow2", "qcow2", "BadImage", "another file"),
        ("huge.qcow2", "qcow2", "NoSpace", "larger than the pool"),
        ("disk.raw", "qcow2", "BadImage", "not a qcow2"),
    ):
        with pytest.raises(InsideError) as caught:
            lab.call(inside.add, "bad", files[file], kind)
        assert caught.value.kind == code, file
        assert words in caught.value.text, file
        assert caught.value.words["hint"], file
        assert lab.call(inside.volumes) == [], file
        assert lab.call(inside.devices) == [], file
    assert lab.call(inside.used)["data"] == before
    assert lab.call(inside.add, "good", files["plain.qcow2"], "qcow2")["version"] == 1
    assert lab.call(inside.add, "good", files["plain.qcow2"], "qcow2")["version"] == 2
    with pytest.raises(InsideError, match="InvalidInput"):
        lab.call(inside.add, "No Good", files["plain.qcow2"], "qcow2")


def test_an_import_that_is_cancelled_leaves_nothing(daemon: Daemon) -> None:
    lab = daemon.lab
    files = lab.call(inside.make_images)
    empty = lab.call(inside.used)["data"]
    upload = lab.begin_call(inside.half_an_upload, "debian", files["plain.qcow2"], "qcow2")
    lab.call(inside.wait_written, empty + 1 * MIB)
    ended = lab.call(inside.cancel, "import")
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "cancelled")
    assert lab.call(inside.volumes) == []
    assert lab.call(inside.devices) == []
    assert lab.call(inside.used)["data"] == empty
    upload.kill()
    assert lab.call(inside.add, "debian", files["plain.qcow2"], "qcow2")["state"] == "ready"


@pytest.mark.heavy
@pytest.mark.parametrize(("kind", "end"), [("raw", "kill"), ("qcow2", "kill"), ("qcow2", "restart")])
def test_a_daemon_that_ends_in_the_middle_of_an_import_leaves_nothing(daemon: Daemon, kind: str, end: str) -> None:
    lab = daemon.lab
    files = lab.call(inside.make_images)
    empty = lab.call(inside.used)["data"]
    upload = lab.begin_call(
        inside.half_an_upload, "debian", files["disk.raw" if kind == "raw" else "plain.qcow2"], kind
    )
    lab.call(inside.wait_written, empty + 1 * MIB)
    assert lab.call(inside.volumes) != []
    daemon.kill() if end == "kill" else daemon.restart()
    assert lab.call(inside.volumes) == []
    assert lab.call(inside.devices) == []
    assert lab.call(inside.used)["data"] == empty
    assert lab.call(inside.status)["problems"] == []
    upload.kill()
    assert lab.call(inside.add_image, "debian")["state"] == "ready"


@pytest.mark.heavy
def test_a_power_cut_in_the_middle_of_an_import_leaves_nothing(daemon: Daemon) -> None:
    lab = daemon.lab
    files = lab.call(inside.make_images)
    empty = lab.call(inside.used)["data"]
    lab.begin_call(inside.half_an_upload, "debian", files["disk.raw"], "raw")
    lab.call(inside.wait_written, empty + 1 * MIB)
    daemon.power_cut()
    assert lab.call(inside.volumes) == []
    assert lab.call(inside.used)["data"] == empty
    assert lab.call(inside.add_image, "debian")["state"] == "ready"


@pytest.mark.heavy
def test_a_sender_that_goes_away_leaves_nothing(daemon: Daemon) -> None:
    lab = daemon.lab
    files = lab.call(inside.make_images)
    empty = lab.call(inside.used)["data"]
    upload = lab.begin_call(inside.half_an_upload, "debian", files["disk.raw"], "raw")
    lab.call(inside.wait_written, empty + 1 * MIB)
    upload.kill()
    lab.call(inside.wait_gone)
    assert lab.call(inside.used)["data"] == empty
