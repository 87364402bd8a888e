"""The digest that decides whether an image is built again."""

from pathlib import Path

import pytest
from imagebuild.inputs import digest
from imagebuild.kinds import KINDS, ROOT, place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/10-a.conf").write_text("a")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "link").symlink_to("/dev/null")
    return tmp_path


def of(tree: Path) -> str:
    return digest(tree, ["conf.d", "run.sh", "link"], "fact")


def test_content_names_modes_and_links_count(tree: Path) -> None:
    seen = [of(tree)]
    (tree / "conf.d/10-a.conf").write_text("b")
    seen.append(of(tree))
    (tree / "conf.d/10-a.conf").rename(tree / "conf.d/20-a.conf")
    seen.append(of(tree))
    (tree / "run.sh").chmod(0o755)
    seen.append(of(tree))
    (tree / "link").unlink()
    (tree / "link").symlink_to("/dev/zero")
    seen.append(of(tree))
    seen.append(digest(tree, ["conf.d", "run.sh", "link"], "another fact"))
    assert len(set(seen)) == len(seen)


def test_caches_and_times_do_not_count(tree: Path) -> None:
    before = of(tree)
    (tree / "conf.d/__pycache__").mkdir()
    (tree / "conf.d/__pycache__/a.pyc").write_text("x")
    (tree / "conf.d/10-a.conf").touch()
    assert of(tree) == before


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_input_exists_and_results_lie_apart(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    missing = [path for path in kind.inputs if not (ROOT / path).exists()]
    assert missing == []
    assert place(kind, tmp_path).name.startswith(f"{name}-")


def test_the_appliance_counts_all_its_configuration() -> None:
    configuration = {path.name for path in ROOT.glob("mkosi.*")} - {"mkosi.images"}
    assert configuration <= set(KINDS["appliance"].inputs)
