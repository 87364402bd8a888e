from pathlib import Path

import pytest

from tests import summary
from tests.summary import Outcome

XML = '<testsuites><testsuite tests="{0}" failures="{1}" errors="{2}" skipped="{3}" time="1.5"/></testsuites>'


def result(folder: Path, tier: str, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> None:
    (folder / f"{tier}.xml").write_text(XML.format(tests, failures, errors, skipped), encoding="utf-8")


def test_counts_are_read(tmp_path: Path) -> None:
    result(tmp_path, "unit", 10, failures=1, errors=2, skipped=3)
    assert summary.read(tmp_path / "unit.xml") == Outcome(passed=4, failed=3, skipped=3, seconds=1.5)


def test_what_failed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = '<testcase classname="tests.kernel.test_a" name="test_b"><failure message="assert 1&#10; == 2">x</failure>'
    text = f'<testsuites><testsuite tests="1" failures="1">{case}</testcase></testsuite></testsuites>'
    (tmp_path / "kernel.xml").write_text(text, encoding="utf-8")
    assert summary.main([str(tmp_path), "kernel"]) == 1
    assert "failed: tests.kernel.test_a::test_b: assert 1 == 2" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("text", [None, "", "<testsuites><testsuite"])
def test_a_tier_without_a_complete_result_has_failed(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "unit.xml").write_text(text, encoding="utf-8")
    assert summary.main([str(tmp_path), "unit"]) == 1
    assert "gave no result" in capsys.readouterr().out


def test_a_skip_fails_in_ci_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result(tmp_path, "kernel", 5, skipped=1)
    monkeypatch.delenv("CI", raising=False)
    assert summary.main([str(tmp_path), "kernel"]) == 0
    monkeypatch.setenv("CI", "true")
    assert summary.main([str(tmp_path), "kernel"]) == 1


def test_a_tier_of_nothing_fails_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result(tmp_path, "kernel", 0)
    monkeypatch.setenv("CI", "true")
    assert summary.main([str(tmp_path), "kernel"]) == 1


def test_the_last_line_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result(tmp_path, "lint", 3)
    result(tmp_path, "unit", 4, failures=1)
    assert summary.main([str(tmp_path), "lint", "unit", "kernel"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "6 passed, 2 failed, 0 skipped"
