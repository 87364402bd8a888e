"""What is remembered of backups, and what an operator is told of it."""

from pathlib import Path

import pytest

from appliance.store import metadata

HOUR = 3600.0


def test_the_last_whole_backup_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert metadata.last_backup(tmp_path) is None
    assert metadata.problems(tmp_path, now=9e9) == (), "before the first one there is nothing to be late"
    monkeypatch.setattr("time.time", lambda: 1e9)
    metadata.record_backup(tmp_path, "")
    assert metadata.last_backup(tmp_path) == 1e9
    assert metadata.problems(tmp_path, now=1e9 + 6 * HOUR) == ()
    [late] = metadata.problems(tmp_path, now=1e9 + 7 * HOUR)
    assert "7 hours old" in late.what


def test_one_with_trouble_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)
    metadata.record_backup(tmp_path, "")
    monkeypatch.setattr("time.time", lambda: 1e9 + HOUR)
    metadata.record_backup(tmp_path, "the dump ended with an error")
    assert metadata.last_backup(tmp_path) == 1e9
    [trouble] = metadata.problems(tmp_path, now=1e9 + HOUR)
    assert "the dump ended with an error" in trouble.what
    assert trouble.hint


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"good": "yesterday"}', '{"good": 0}', '{"good": true}'])
def test_a_damaged_note_is_no_backup(tmp_path: Path, text: str) -> None:
    (tmp_path / "backup.last").write_text(text)
    assert metadata.last_backup(tmp_path) is None
