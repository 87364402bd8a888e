import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalog import Catalog, Client, NewClone, NewTemplate
from appliance.catalog.migrations import STEPS, migrate
from appliance.errors import AlreadyExists, InUse, NotFound, NotReady, Refused, Unhealthy
from appliance.model import MAX_THIN_ID, CloneState, ImageFormat, TemplateRef, TemplateState


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.db")
    yield opened
    opened.close()


def template(name: str) -> NewTemplate:
    return NewTemplate(name, ImageFormat.RAW, "upload", 1.5)


def ready(catalog: Catalog, name: str = "debian") -> int:
    thin_id = catalog.add_template(template(name)).thin_id
    catalog.finish_template(thin_id, 4096, "0" * 64)
    return thin_id


def test_a_catalog_is_durable_when_a_change_returns(tmp_path: Path) -> None:
    first = Catalog(tmp_path / "catalog.db")
    ready(first)
    # No close: the process is gone.
    second = Catalog(tmp_path / "catalog.db")
    (found,) = second.templates()
    assert (found.ref, found.state, found.size) == ("debian@1", TemplateState.READY, 4096)
    first.close()
    second.close()


def test_the_database_is_set_to_keep_what_it_acknowledged(catalog: Catalog) -> None:
    settings = {name: catalog._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert settings == {"journal_mode": "wal", "synchronous": 2}


def test_opening_migrates_once_and_refuses_a_newer_schema(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    before = list(db.iterdump())
    migrate(db)
    assert list(db.iterdump()) == before
    db.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    db.close()
    with pytest.raises(Refused, match="newer release"):
        Catalog(path)


def test_a_step_that_fails_is_not_half_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "CREATE TABLE extra (one INTEGER) STRICT; INSERT INTO extra VALUES (1, 2);"
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    monkeypatch.setattr("appliance.catalog.migrations.STEPS", (*STEPS, broken))
    with pytest.raises(NotReady):
        Catalog(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    db.close()


def test_a_path_that_cannot_be_opened_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="cannot be opened"):
        Catalog(tmp_path / "missing" / "catalog.db")


def test_ids_are_never_given_twice(catalog: Catalog) -> None:
    first = ready(catalog)
    catalog.drop_template(first, 1)
    second = ready(catalog)
    assert second == first + 1
    catalog.skip_thin_ids(40)
    catalog.skip_thin_ids(20)
    assert ready(catalog, "other") == 41


def test_ids_end_some_day(catalog: Catalog) -> None:
    catalog.skip_thin_ids(MAX_THIN_ID)
    with pytest.raises(Unhealthy, match="used up"):
        catalog.add_template(template("late"))
    assert catalog.templates() == ()


def test_a_taken_name_is_said_to_be_taken(catalog: Catalog) -> None:
    catalog.add_template(template("debian"))
    with pytest.raises(AlreadyExists, match="importing"):
        catalog.add_template(template("debian"))


def test_clones_are_added_all_or_none(catalog: Catalog) -> None:
    ready(catalog)
    ref = TemplateRef("debian")
    catalog.add_clones(ref, [NewClone("a", None, 1.0)])
    with pytest.raises(AlreadyExists, match="clone a"):
        catalog.add_clones(ref, [NewClone("b", None, 1.0), NewClone("a", None, 1.0)])
    with pytest.raises(NotFound, match="client hv1"):
        catalog.add_clones(ref, [NewClone("b", None, 1.0), NewClone("c", "hv1", 1.0)])
    assert [clone.name for clone in catalog.clones()] == ["a"]


def test_only_ready_templates_are_cloned(catalog: Catalog) -> None:
    catalog.add_template(template("debian"))
    with pytest.raises(NotReady, match="importing"):
        catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0)])


def test_open_intents_are_what_was_not_finished(catalog: Catalog) -> None:
    done = ready(catalog)
    (clone, other) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0), NewClone("b", None, 1.0)])
    importing = catalog.add_template(template("fedora"))
    staging = catalog.add_staging(importing.thin_id)
    catalog.finish_clones([clone.thin_id], 7)
    found = catalog.open_intents()
    assert [t.thin_id for t in found.templates] == [importing.thin_id]
    assert [c.thin_id for c in found.clones] == [other.thin_id]
    assert found.stagings == (staging,)
    assert catalog.transaction_id() == 7
    assert catalog.thin_ids() == {done, clone.thin_id, other.thin_id, importing.thin_id, staging.thin_id}
    with pytest.raises(InUse):
        catalog.drop_template(importing.thin_id, 8)
    catalog.drop_staging(staging.thin_id, 8)
    catalog.drop_template(importing.thin_id, 9)
    catalog.drop_clones([other.thin_id], 10)
    assert not catalog.open_intents()
    assert catalog.transaction_id() == 10


def test_a_template_with_clones_stays_and_says_whose(catalog: Catalog) -> None:
    thin_id = ready(catalog)
    catalog.add_clones(TemplateRef("debian"), [NewClone(f"web-{n}", None, 1.0) for n in range(7)])
    with pytest.raises(InUse, match=r"7 clone\(s\) depend on it: web-0, web-1.* and 2 more"):
        catalog.begin_template_removal(thin_id)
    assert catalog.template(TemplateRef("debian")).state is TemplateState.READY
    assert catalog.clone_counts() == {thin_id: 7}


def test_a_removal_detaches(catalog: Catalog) -> None:
    ready(catalog)
    catalog.put_client(Client("local", "unix"))
    (clone,) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", "local", 1.0)])
    catalog.finish_clones([clone.thin_id], 1)
    assert [c.name for c in catalog.clones_of_client("local")] == ["a"]
    with pytest.raises(InUse, match="a"):
        catalog.drop_client("local")
    catalog.begin_clone_removal(clone.thin_id)
    assert catalog.clones_of_client("local") == ()
    assert catalog.clone("a").state is CloneState.REMOVING
    catalog.drop_client("local")


def test_clients_are_replaced_by_name(catalog: Catalog) -> None:
    catalog.put_client(Client("hv1", "unix"))
    catalog.put_client(Client("hv1", "tcp", "10.0.0.1", 10809, plain=True))
    assert catalog.clients() == (Client("hv1", "tcp", "10.0.0.1", 10809, plain=True),)
