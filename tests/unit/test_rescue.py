"""Backups, what a dump tells, and how a catalog is put back."""

import io
import itertools
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config
from appliance.catalog import Catalog, Client, NewClone, NewTemplate
from appliance.catalog import condition as conditions
from appliance.catalog.condition import Condition
from appliance.catalog.recover import RestoredCatalog
from appliance.config import Paths
from appliance.errors import CannotTell, NotFound, Unhealthy
from appliance.host import thin_dump
from appliance.host.thin_dump import Run, Superblock, Volume
from appliance.model import MIB, CloneState, Extent, ImageFormat, PoolName, TemplateRef
from appliance.rescue import backup, bundle, origins, repair, restore, stream
from appliance.rescue import main as rescue_main
from appliance.rescue.bundle import Manifest
from appliance.rescue.restore import Adopted, Known

DATA = Path(__file__).parents[1] / "data/thin_dump"
BLOCK = 64 * 1024


# --- dumps


def test_a_dump_is_read() -> None:
    superblock, volumes = thin_dump.read(DATA / "1.1-five-volumes.xml")
    assert superblock == Superblock(transaction_id=7, block=128, data_blocks=10000)
    assert [volume.thin_id for volume in volumes] == [1, 2, 3, 4, 5]
    assert volumes[1] == Volume(2, 65, 1, 1, (Run(0, 0, 60), Run(60, 100, 4), Run(99, 200, 1)))
    assert [volume.end for volume in volumes] == [64, 100, 64, 0, 0]
    assert thin_dump.read(DATA / "1.1-one-volume.xml")[1] == (volumes[1],)
    assert [volume.mapped for volume in thin_dump.read(DATA / "1.1-skip-mappings.xml")[1]] == [64, 65, 64, 0, 0]


def test_shared_parts_of_a_dump_are_read_where_they_are_used() -> None:
    text = (DATA / "1.1-one-volume.xml").read_text()
    runs = '<range_mapping origin_begin="0" data_begin="0" length="60" time="0"/>'
    shared = text.replace("  <device", f'  <def name="7">{runs}</def>\n  <device', 1).replace(runs, '<ref name="7"/>')
    shared = shared.replace('<def name="7"><ref name="7"/></def>', f'<def name="7">{runs}</def>')
    assert shared.count("ref name") == 1
    assert thin_dump.read(io.BytesIO(shared.encode())) == thin_dump.read(io.BytesIO(text.encode()))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans())), st.lists(st.integers(0, 60)))
def test_places_are_where_the_runs_say(runs: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    """Compared with looking at each byte. Blocks of 4 bytes; runs apart by a hole or not, in the data in any order."""
    block, at, made = 4, 0, []
    for number, (hole, length, forwards) in enumerate(runs):
        made.append(Run(at + hole, (2 * number if forwards else 99 - 2 * number) * 10, length))
        at += hole + length
    where = {
        (run.origin * block) + byte: (run.data * block) + byte for run in made for byte in range(run.length * block)
    }
    bounds = sorted(set(cuts))
    extents = [Extent(begin, end - begin) for begin, end in itertools.pairwise(bounds)]
    expected = {where[byte] for extent in extents for byte in range(extent.offset, extent.end) if byte in where}
    found = thin_dump.places(made, block, extents)
    assert sorted(expected) == [byte for extent in found for byte in range(extent.offset, extent.end)]


def test_a_dump_that_was_cut_off_is_no_dump() -> None:
    text = (DATA / "1.1-five-volumes.xml").read_bytes()
    for broken in (text[:-20], b"", b"<superblock/>", text.replace(b'dev_id="1"', b"")):
        with pytest.raises(CannotTell):
            thin_dump.read(io.BytesIO(broken))


def test_the_origin_of_a_volume_is_seen_in_shared_blocks_and_in_the_pools_time() -> None:
    one, two, three, four, five = thin_dump.read(DATA / "1.1-five-volumes.xml")[1]
    assert origins.shared_blocks(one, two) == origins.shared_blocks(two, one) == 60
    everybody = (one, two, three, four, five)
    assert origins.origin_of(two, everybody) is one
    assert origins.origin_of(three, everybody) is one
    # An empty volume made after the snapshot 3 has its time, and comes from nobody.
    assert origins.origin_of(four, everybody) is None
    assert origins.origin_of(one, everybody) is None
    # A snapshot of an empty volume shares nothing; the time tells.
    assert origins.origin_of(five, everybody) is four


# --- what becomes of the volumes


def known(thin_id: int, name: str, template: int | None = None, pool: PoolName = PoolName.DURABLE) -> Known:
    return Known(thin_id, name, 100 * MIB, pool, template)


def test_volumes_newer_than_the_backup_are_kept_and_missing_ones_named() -> None:
    volumes = {volume.thin_id: volume for volume in thin_dump.read(DATA / "1.1-five-volumes.xml")[1]}
    rows = [known(1, "debian@1"), known(3, "web", 1), known(8, "gone", 1), known(9, "fast", 1, PoolName.FAST)]
    found = restore.judge(rows, volumes, {12}, BLOCK, {})
    assert found.adopted == (
        Adopted(2, "recovered-2", 100 * MIB, 1),
        Adopted(4, "recovered-4", MIB, None),
        Adopted(5, "recovered-5", MIB, 4),
    )
    assert found.missing == ("gone", "fast")
    assert found.strange == (12,)


def test_without_the_fast_pool_nothing_is_said_of_its_volumes() -> None:
    found = restore.judge([known(9, "fast", 1, PoolName.FAST)], {}, None, BLOCK, {})
    assert found == restore.Findings()


def test_without_a_backup_volumes_get_the_size_that_they_have_in_the_pool_at_least() -> None:
    volumes = {volume.thin_id: volume for volume in thin_dump.read(DATA / "1.1-five-volumes.xml")[1]}
    found = {each.thin_id: each for each in restore.judge([], volumes, None, BLOCK, {1: 7 * MIB}).adopted}
    assert found[1] == Adopted(1, "recovered-1", 7 * MIB, None), "its device tells"
    assert found[2] == Adopted(2, "recovered-2", 7 * MIB, 1)
    found = {each.thin_id: each for each in restore.judge([], volumes, None, BLOCK, {}).adopted}
    assert found[1].size == 64 * BLOCK
    assert found[2].size == 100 * BLOCK
    assert {each.name for each in restore.judge([known(7, "recovered-1")], volumes, None, BLOCK, {}).adopted} >= {
        "recovered-1-x"
    }


# --- the catalog's file


def catalog_with(path: Path) -> Catalog:
    catalog = Catalog(path)
    catalog.put_client(Client("local", "unix"))
    catalog.add_template(NewTemplate("debian", ImageFormat.RAW, "here", 1.0))
    catalog.finish_template(1, 4 * MIB, "abc")
    catalog.add_clones(TemplateRef("debian"), [NewClone("web", "local", 2.0, expires=5.0), NewClone("half", None, 2.0)])
    catalog.finish_clones([2], 1)
    return catalog


def test_a_catalogs_condition(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    assert conditions.look(path).condition is Condition.ABSENT
    path.touch()
    assert conditions.look(path).condition is Condition.ABSENT
    catalog_with(path).close()
    assert conditions.look(path).condition is Condition.GOOD
    data = bytearray(path.read_bytes())
    data[4096:12288] = b"\xff" * 8192
    path.write_bytes(data)
    assert conditions.look(path).condition is Condition.DAMAGED
    path.write_bytes(b"this is no database " * 500)
    assert conditions.look(path).condition is Condition.DAMAGED


def test_a_look_makes_no_file(tmp_path: Path) -> None:
    conditions.look(tmp_path / "catalog.db")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_whole_while_the_catalog_is_written(tmp_path: Path) -> None:
    catalog = catalog_with(tmp_path / "catalog.db")
    version = conditions.copy(tmp_path / "catalog.db", tmp_path / "copy.db")
    catalog.put_client(Client("later", "unix"))
    catalog.close()
    assert version >= 2
    assert conditions.transaction_id(tmp_path / "copy.db") == 1
    assert sorted(path.name for path in tmp_path.glob("copy.db*")) == ["copy.db"]
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert db.execute("SELECT name FROM clients").fetchall() == [("local",)]
    db.close()
    with pytest.raises(Unhealthy, match="absent"):
        conditions.copy(tmp_path / "nothing.db", tmp_path / "other.db")


def test_open_intents_of_a_backup_delete_nothing(tmp_path: Path) -> None:
    catalog = catalog_with(tmp_path / "catalog.db")
    catalog.add_template(NewTemplate("fedora", ImageFormat.RAW, "here", 3.0))
    catalog.add_staging(4)
    catalog.add_garbage(PoolName.DURABLE, "a reset", 3.0)
    catalog.close()
    restored = RestoredCatalog(tmp_path / "catalog.db")
    restored.settle({1, 2, 3, 4, 5, 6})
    assert restored.thin_ids() == {1, 2, 3}
    assert restored.garbage() == ()
    assert {clone.name: clone.state for clone in restored.clones()} == dict.fromkeys(("web", "half"), CloneState.READY)
    assert restored.spare_leases(1000.0) == 1
    assert restored.clone("web").expires == 1000.0
    restored.settle({1, 2})
    restored.adopt_template(4, "recovered-4", MIB, 9.0)
    restored.adopt_clone(5, "recovered-5", 4, MIB, 9.0)
    assert restored.clone("recovered-5").template_ref == "recovered-4@1"
    restored.close()


def test_a_new_catalog_never_meets_an_old_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, moved, rename = Paths(state=tmp_path), [], Path.rename

    def note(self: Path, target: Path) -> Path:
        moved.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", note)
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"catalog.db{suffix}").write_text("old")
    (tmp_path / "catalog.restored").write_text("new")
    restore.put(paths, tmp_path / "catalog.restored")
    assert paths.catalog.read_text() == "new"
    assert moved == ["catalog.db", "catalog.db-wal", "catalog.db-shm", "catalog.restored"]
    assert paths.orphans_doubted.exists()
    kept = sorted(path.name.partition(".old")[2] for path in tmp_path.iterdir() if ".old" in path.name)
    assert kept == ["", "-shm", "-wal"]
    assert not (tmp_path / "catalog.db-wal").exists()


# --- backups


def make(base: Path, stamp: str, *, with_dump: bool = True) -> bundle.Backup:
    unfinished = base / f"{stamp}{bundle.UNFINISHED}"
    (unfinished / "conf.d").mkdir(parents=True)
    files = ["catalog.db", "conf.d/30-store.toml", *([bundle.DUMP] if with_dump else [])]
    for name in files:
        (unfinished / name).write_text(f"{stamp} {name}")
    digests = {name: stream.digest(unfinished / name) for name in files}
    manifest = Manifest(1.0, "0.1.0", 7, 7, 10000, "" if with_dump else "no room", digests)
    return bundle.finish(unfinished, manifest, base / stamp)


def test_a_backup_is_recognised_when_it_is_complete(tmp_path: Path) -> None:
    made = make(tmp_path, "20260101T000000Z")
    (tmp_path / "20260102T000000Z.new").mkdir()
    assert bundle.folders(tmp_path) == (made.folder,)
    assert bundle.load(made.folder) == made
    assert made.catalog == made.folder / "catalog.db"


@pytest.mark.parametrize("name", ["catalog.db", bundle.DUMP, "conf.d/30-store.toml"])
def test_a_changed_file_is_seen(tmp_path: Path, name: str) -> None:
    made = make(tmp_path, "20260101T000000Z")
    (made.folder / name).write_text("something else")
    with pytest.raises(Unhealthy, match="has changed"):
        bundle.load(made.folder)


def test_a_manifest_names_no_file_outside(tmp_path: Path) -> None:
    made = make(tmp_path, "20260101T000000Z")
    path = made.folder / bundle.MANIFEST
    for text in (
        path.read_text().replace("catalog.db", "../catalog.db"),
        path.read_text().replace('"format": 1', '"format": 2'),
        "{}",
        "no json",
    ):
        (made.folder / bundle.MANIFEST).write_text(text)
        with pytest.raises(Unhealthy):
            bundle.load(made.folder)


def test_the_newest_are_kept_and_one_with_a_dump(tmp_path: Path) -> None:
    make(tmp_path, "20260101T000000Z")
    make(tmp_path, "20260102T000000Z")
    for day in range(3, 7):
        make(tmp_path, f"2026010{day}T000000Z", with_dump=False)
    gone = bundle.prune(tmp_path, 3)
    assert [folder.name for folder in gone] == ["20260103T000000Z", "20260101T000000Z"]
    assert [folder.name[:8] for folder in bundle.folders(tmp_path)] == ["20260106", "20260105", "20260104", "20260102"]


def test_backups_of_one_second_all_stay_and_keep_their_order(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC).timestamp()
    made = [make(tmp_path, bundle.free_name(tmp_path, now).name).folder for _ in range(3)]
    assert [folder.name for folder in made] == ["20260101T235959Z", "20260102T000000Z", "20260102T000001Z"]
    assert bundle.folders(tmp_path) == tuple(reversed(made))


def test_an_archive_holds_the_backup(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made = make(tmp_path / "in", "20260101T000000Z")
    archive = bundle.save_tar(made, tmp_path)
    (tmp_path / "out").mkdir()
    with archive.open("rb") as file:
        folder = bundle.unpack_tar(file, tmp_path / "out")
    assert bundle.load(folder).manifest == made.manifest
    with pytest.raises(Unhealthy):
        bundle.unpack_tar(io.BytesIO(b"no archive" * 100), tmp_path / "out")
    with pytest.raises(NotFound):
        bundle.load(tmp_path)
    assert json.loads((folder / bundle.MANIFEST).read_text())["format"] == 1


# --- writing metadata back


def test_new_metadata_is_written_with_its_first_block_last(tmp_path: Path) -> None:
    image, device = tmp_path / "image", tmp_path / "device"
    with image.open("wb") as file:
        file.truncate(4 * MIB)
        for at, byte in ((0, b"S"), (4096, b"a"), (2 * MIB, b"b")):
            file.seek(at)
            file.write(byte * 4096)
    device.write_bytes(b"\xee" * 4 * MIB)
    repair.copy_over(image, device)
    written = device.read_bytes()
    for at, byte in ((0, b"S"), (4096, b"a"), (2 * MIB, b"b")):
        assert written[at : at + 4096] == byte * 4096
    assert len(written) == 4 * MIB
    # What is not in use is not written: it would take as long as the device is large.
    assert written[3 * MIB :] == b"\xee" * MIB


def test_the_header_of_a_running_pools_dump_gets_the_pools_size() -> None:
    header = b'<superblock transaction="7" nr_data_blocks="0">'
    assert repair.complete(header, 31) == b'<superblock transaction="7" nr_data_blocks="31">'
    assert repair.complete(header.replace(b'"0"', b'"9"'), 31).endswith(b'nr_data_blocks="9">')


# --- for programs


@pytest.mark.parametrize(("verb", "module", "name"), [("repair", repair, "sound"), ("restore", restore, "restored")])
@pytest.mark.parametrize("done", [True, False])
def test_what_a_verb_says_is_one_document_for_programs(
    verb: str,
    module: ModuleType,
    name: str,
    done: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*given: Any, **named: Any) -> bool:
        say = named.get("say") or given[2]
        say("one")
        say("two")
        return done

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(rescue_main, "Machine", lambda _: None)
    monkeypatch.setattr(config, "load", lambda: None)
    assert rescue_main.main([verb, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {name: done, "said": ["one", "two"]}
    assert rescue_main.main([verb]) == 0
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_backup_says_where_it_is_and_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bundle.Manifest(7.0, "0.1.0", 12, 12, 0, files={bundle.CATALOG: "x"})
    made = bundle.Backup(tmp_path / "20261123T031500Z", manifest)
    monkeypatch.setattr(backup, "local", lambda *_, **__: made)
    monkeypatch.setattr(rescue_main, "Machine", lambda _: None)
    monkeypatch.setattr(config, "load", lambda: None)
    assert rescue_main.main(["backup", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(made.folder), "created": 7.0, "release": "0.1.0", "transaction_id": 12, "catalog": True,
        "dump": False,
    }  # fmt: skip
    assert rescue_main.main(["backup"]) == 0
    assert capsys.readouterr() == ("", f"{made.folder}\n")


def test_an_archive_is_not_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert rescue_main.main(["backup", "--to", "-", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid-input"
