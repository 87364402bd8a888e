"""The catalog's file: what it keeps, who may read it, and how it gets its newest form."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalog import (
    AuthorityRow,
    Catalog,
    PoolRow,
)
from appliance.catalog.migrations import STEPS, migrate
from appliance.errors import NotReady, Refused
from appliance.model import (
    CloneKind,
    CloneState,
    Limits,
    PoolName,
    TemplateState,
)
from tests.lint.files import ROOT
from tests.unit.catalog_rows import ready, template


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.db")
    yield opened
    opened.close()


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


def test_a_catalog_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    """The file is what the first release wrote: things that are, that were half made, that were half removed."""
    path = tmp_path / "catalog.db"
    db = sqlite3.connect(path)
    db.executescript((ROOT / "tests/data/catalog/version-1.sql").read_text(encoding="utf-8"))
    db.close()
    catalog = Catalog(path)
    assert catalog.pool() == PoolRow(PoolName.DURABLE, 4, None)
    assert catalog.pool(PoolName.FAST) == PoolRow(PoolName.FAST, None, None)
    assert [(client.name, client.max_connections) for client in catalog.clients()] == [("hv1", 1000), ("local", 1000)]
    assert [(t.ref, t.state, t.retired) for t in catalog.templates()] == [
        ("debian@1", TemplateState.READY, False),
        ("fedora@1", TemplateState.IMPORTING, False),
    ]
    assert [(c.thin_id, c.name, c.client, c.kind, c.expires, c.state) for c in catalog.clones()] == [
        (4, "db", None, CloneKind.DURABLE, None, CloneState.READY),
        (6, "half", None, CloneKind.DURABLE, None, CloneState.CREATING),
        (3, "web", "local", CloneKind.DURABLE, None, CloneState.READY),
    ]
    assert {clone.limits for clone in catalog.clones()} == {Limits()}
    assert [(g.thin_id, g.why) for g in catalog.garbage()] == [
        (2, "template old@1 was removed"),
        (5, "clone gone was removed"),
    ]
    assert [s.thin_id for s in catalog.stagings()] == [8]
    assert catalog.thin_ids() == {1, 2, 3, 4, 5, 6, 7, 8}
    assert catalog.authority() is None
    assert catalog.certificates("hv1") == ()
    made = catalog.add_template(template("debian"))
    assert (made.thin_id, made.version) == (9, 2)
    catalog.close()


@pytest.mark.parametrize("mode", [None, 0o644])
def test_the_catalog_is_for_its_owner_alone(tmp_path: Path, mode: int | None) -> None:
    """It holds the authority's key."""
    path = tmp_path / "catalog.db"
    if mode is not None:
        path.touch(mode)
    catalog = Catalog(path)
    catalog.set_authority(AuthorityRow("certificate", "key"), 1.0)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert catalog.authority() == AuthorityRow("certificate", "key")
    catalog.close()


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
