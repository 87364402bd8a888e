"""Templates that are cloned while they are fetched, over the models of the store and of other servers."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.bootset.file import BootSetFile
from appliance.errors import InUse, InvalidInput, NotReady, Refused
from appliance.model import KIB, CloneKind, Extent, Health, ImageFormat, PoolName, TemplateState
from appliance.schema import ClientSpec, CloneCreate, NbdSource, Operation, TemplateCreate, TemplateView
from appliance.service import fetches
from appliance.service.templates import Removing
from appliance.wait import until
from tests.unit.model import ModelPool
from tests.unit.service_harness import IMAGE, Box, box

URI = "nbd://192.0.2.1/debian@1"
MINE = b"mine" + IMAGE[4:]


class Gate:
    """Holds the fetch at its next piece while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = threading.Event()

    def guests(self) -> int:
        self.waiting.set()
        self.open.wait(20)
        return 0


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def far(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """An appliance that knows a server, and does not get on with fetching while the gate is shut."""
    monkeypatch.setattr(fetches, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(fetches, "AT_START_SECONDS", 0.5)
    with box(tmp_path) as made:
        (tmp_path / "fast").mkdir()
        made.pools[PoolName.FAST] = ModelPool(tmp_path / "fast", name="drive-1")
        made.restart()
        made.remotes.disks["debian@1"] = IMAGE
        made.store.guests = gate.guests
        yield made
        gate.open.set()


def add(box: Box, *, lazy: bool = True, uri: str = URI, sha256: str | None = None, name: str = "far") -> Operation:
    """Fetch a template; the import's operation at its end, failed or not."""
    source = NbdSource(uri=uri, lazy=lazy)
    job = box.service.import_template(TemplateCreate(name=name, format=ImageFormat.RAW, source=source, sha256=sha256))
    assert job.finished.wait(10)
    return job.operation


def view(box: Box) -> TemplateView:
    return box.service.show_template("far")


def whole(box: Box) -> TemplateView:
    until(lambda: view(box).state is TemplateState.READY, "all to be fetched", deadline=10)
    return view(box)


def clone(box: Box, name: str, kind: CloneKind = CloneKind.DURABLE) -> Path:
    """A new clone's disk."""
    box.service.create_clones(CloneCreate(name=name, template="far", kind=kind))
    return disk(box, name)


def disk(box: Box, name: str) -> Path:
    made = box.service.core.catalog.clone(name)
    return box.pools[made.pool].path(made.thin_id)


def agreed(box: Box) -> None:
    """Catalog, pools and devices agree, and nothing is left over."""
    assert box.service.plan().steps == ()
    assert box.service.plan().problems == ()
    assert box.service.core.catalog.garbage() == ()


def test_clones_of_a_template_that_is_fetched_are_no_snapshots(far: Box, gate: Gate) -> None:
    assert add(far).state == "succeeded"
    assert gate.waiting.wait(10)
    found = view(far)
    assert (found.state, found.size, found.sha256) == (TemplateState.FETCHING, len(IMAGE), None)
    assert found.fetch is not None
    assert (found.fetch.done_bytes, found.fetch.waiting) == (0, None)
    assert clone(far, "web").read_bytes() == IMAGE
    assert clone(far, "quick", CloneKind.EPHEMERAL).read_bytes() == IMAGE
    disk(far, "web").write_bytes(MINE)
    assert far.service.core.catalog.clone("web").overlay
    assert far.pool.volumes[far.service.core.catalog.clone("web").thin_id].snapshot_of is None
    agreed(far)
    with pytest.raises(NotReady, match="cannot be offered"):
        far.service.offers.put("far", "local")

    gate.open.set()
    done = whole(far)
    assert (done.sha256, done.fetch) == (hashlib.sha256(IMAGE).hexdigest(), None)
    assert far.remotes.opened == set()
    assert disk(far, "web").read_bytes() == MINE
    assert clone(far, "later").read_bytes() == IMAGE
    assert not far.service.core.catalog.clone("later").overlay
    # Reset, an overlay is a snapshot as any other.
    far.service.life.reset("web", force=True)
    assert not far.service.core.catalog.clone("web").overlay
    assert disk(far, "web").read_bytes() == IMAGE
    agreed(far)


def test_a_start_goes_on_with_a_fetch(far: Box, gate: Gate) -> None:
    add(far)
    clone(far, "web").write_bytes(MINE)
    gate.open.set()
    for start in (far.restart, far.reboot):
        far.service.fetches.close()
        start()
        assert disk(far, "web").read_bytes() == MINE
    assert whole(far).sha256 == hashlib.sha256(IMAGE).hexdigest()
    agreed(far)


def test_after_a_start_a_server_that_is_away_is_a_problem_until_it_is_back(far: Box, gate: Gate) -> None:
    add(far)
    clone(far, "web").write_bytes(MINE)
    far.remotes.away = True
    threading.Timer(0.2, gate.open.set).start()
    far.service.fetches.close()
    far.reboot()
    (told,) = [each for each in far.service.status().problems if "not whole" in each.what]
    assert (told.severity, "192.0.2.1" in told.hint) == (Health.DEGRADED, True)
    assert "Connection refused" in str(view(far).fetch)
    far.remotes.away = False
    whole(far)
    assert [each.what for each in far.service.status().problems if "not whole" in each.what] == []
    assert disk(far, "web").read_bytes() == MINE


def test_another_disk_is_not_taken_for_the_one_that_it_was(far: Box, gate: Gate) -> None:
    add(far)
    threading.Timer(0.2, gate.open.set).start()
    far.service.fetches.close()
    for changed in (IMAGE + bytes(512), IMAGE):
        far.remotes.disks["debian@1"] = changed
        far.remotes.written = {"debian@1"} if changed == IMAGE else set()
        far.restart()
        until(lambda: "not the disk that it was" in str(view(far).fetch), "the fetch to wait", deadline=10)
    far.remotes.written = set()
    whole(far)


def test_a_template_that_is_removed_takes_its_fetch_with_it(far: Box, gate: Gate) -> None:
    add(far)
    clone(far, "web")
    with pytest.raises(InUse, match="in use"):
        far.service.templates.remove("far")
    far.service.templates.remove("far", Removing.WHEN_UNUSED)
    far.service.clones.remove("web", force=True)
    gate.open.set()
    until(lambda: not far.remotes.opened, "the fetch to end", deadline=10)
    until(lambda: not far.pool.volumes, "the volumes to go", deadline=10)
    gate.open.clear()
    add(far)
    far.service.templates.remove("far")
    gate.open.set()
    until(lambda: not far.remotes.opened and not far.pool.volumes, "the volume to go", deadline=10)
    agreed(far)


def test_an_import_over_nbd_is_as_any_other(far: Box, gate: Gate) -> None:
    gate.open.set()
    digest = hashlib.sha256(IMAGE).hexdigest()
    assert add(far, lazy=False, sha256=digest).state == "succeeded"
    assert (view(far).state, view(far).source) == (TemplateState.READY, "nbd://192.0.2.1:10809/debian@1")
    assert clone(far, "web").read_bytes() == IMAGE
    agreed(far)
    before = set(far.pool.volumes)
    for failed, words in (
        (add(far, lazy=False, sha256="0" * 64), "not the one that was announced"),
        (add(far, uri="nbd://192.0.2.1/nothing"), "cannot be read"),
    ):
        assert failed.error is not None
        assert words in failed.error.what
    far.remotes.written = {"debian@1"}
    failed = add(far)
    assert failed.error is not None
    assert "can be written" in failed.error.what
    assert (set(far.pool.volumes), far.remotes.opened) == (before, set())
    agreed(far)


def test_an_import_is_cancelled_and_a_fetch_that_clones_use_is_not(far: Box, gate: Gate) -> None:
    source = NbdSource(uri=URI)
    job = far.service.import_template(TemplateCreate(name="far", format=ImageFormat.RAW, source=source))
    assert gate.waiting.wait(10)
    job.cancel()
    gate.open.set()
    assert job.finished.wait(10)
    assert (job.operation.state, far.remotes.opened) == ("cancelled", set())
    assert far.service.list_templates().templates == ()
    agreed(far)
    gate.open.clear()
    add(far)
    (running,) = [each for each in far.service.operations.list() if each.kind == "fetch"]
    with pytest.raises(Refused, match="cannot be cancelled"):
        far.service.operations.job(running.id).cancel()


@pytest.mark.parametrize(
    "source",
    [
        NbdSource(uri="nbd+unix:///x?socket=/run/x"),
        NbdSource(uri="nbd://"),
        NbdSource(uri="nbd://host:99999/x"),
        NbdSource(uri="http://host/x"),
    ],
)
def test_what_cannot_be_fetched_is_refused_at_once(far: Box, source: NbdSource) -> None:
    with pytest.raises(InvalidInput, match="no NBD URI"):
        far.service.import_template(TemplateCreate(name="far", format=ImageFormat.RAW, source=source))
    assert far.service.core.catalog.thin_ids() == frozenset()


def test_a_boot_set_travels_and_comes_first(far: Box, gate: Gate) -> None:
    digest = hashlib.sha256(IMAGE).hexdigest()
    given = BootSetFile("debian@1", digest, BootSet((Extent(0, 64 * KIB),), len(IMAGE), 3))
    far.remotes.boot_sets["debian@1"] = file.dump(given)
    add(far)
    found = view(far).boot_set
    assert found is not None
    assert (found.total_bytes, found.guessed) == (64 * KIB, True)
    gate.open.set()
    found = whole(far).boot_set
    assert found is not None
    # By now it is known to be of the same content.
    assert not found.guessed


def test_a_template_is_offered_with_the_boot_set_of_that_moment(far: Box, gate: Gate) -> None:
    gate.open.set()
    assert far.add_template("debian").state == "succeeded"
    far.service.put_client("box2", ClientSpec(transport="tcp", address="127.0.0.1", port=10811, plain=True))
    assert far.service.offers.put("debian", "box2").uri == "nbd://127.0.0.1:10811/debian@1"
    assert far.exported("box2") == {"debian@1"}
    text = file.dump(BootSetFile("debian@1", None, BootSet((Extent(0, 64 * KIB),), len(IMAGE), 3)))
    far.service.put_boot_set("debian", text)
    assert far.service.offers.put("debian", "box2").boot_set
    assert far.exported("box2") == {"debian@1", "debian@1:boot-set"}
    # So it is for a daemon that comes back by itself, and after a start.
    far.units.restart("box2")
    assert far.exported("box2") == {"debian@1", "debian@1:boot-set"}
    far.reboot()
    assert far.exported("box2") == {"debian@1", "debian@1:boot-set"}
    (kept,) = far.paths.seeds("box2").iterdir()
    assert file.load(kept.read_text()) == file.load(text)

    with pytest.raises(InUse, match="in use"):
        far.service.templates.remove("debian")
    far.service.templates.remove("debian", Removing.WHEN_UNUSED)
    assert far.service.show_template("debian").offered_to == ("box2",)
    daemon = far.units.daemons["box2"]
    daemon.connected = set(daemon.exports)
    with pytest.raises(InUse, match="connected to it"):
        far.service.offers.remove("debian", "box2", force=False)
    assert far.service.offers.remove("debian", "box2", force=True).removed
    assert far.exported("box2") == set()
    assert list(far.paths.seeds("box2").iterdir()) == []
    assert far.service.list_templates().templates == ()
