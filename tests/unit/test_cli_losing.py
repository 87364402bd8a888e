"""What loses data says so, and asks at a terminal alone."""

import json
from pathlib import Path

import pytest

from appliance.cli import losing
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]


@pytest.fixture
def web(appliance: Appliance, image: Path) -> Appliance:
    appliance.json("template", "add", "debian", str(image))
    appliance.json("clone", "create", "web", "-t", "debian", "--count", "2")
    return appliance


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody sits there; what he will answer."""
    answers: list[str] = []
    monkeypatch.setattr(losing, "at_a_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answers.pop(0) == "y")
    return answers


LOSING = [
    ("clone", "remove", "web-1", "web-2"),
    ("clone", "reset", "web-1"),
    ("template", "remove", "debian"),
    ("store", "reserve", "release"),
]


@pytest.mark.parametrize("words", LOSING, ids=" ".join)
def test_what_would_be_lost_is_said_and_nothing_is_done(web: Appliance, words: tuple[str, ...]) -> None:
    before = web.json("clone", "list"), web.json("template", "list")
    status, out, _ = web.run(*words, "--dry-run")
    assert status == 0
    assert out.count("would lose") == max(1, len(words) - 2 if words[0] == "clone" else 1)
    assert (web.json("clone", "list"), web.json("template", "list")) == before
    assert web.json(*words, "--dry-run")["losses"]


def test_what_is_not_there_cannot_be_lost(web: Appliance) -> None:
    assert web.run("clone", "remove", "none", "--dry-run")[0] == 4
    assert web.run("clone", "reset", "none")[0] == 4
    assert web.run("template", "remove", "none", "--dry-run")[0] == 4


def test_somebody_at_a_terminal_is_asked(web: Appliance, terminal: list[str]) -> None:
    terminal += ["n"]
    status, _, err = web.run("clone", "remove", "web-1")
    assert (status, "nothing was done" in err) == (14, True)
    assert "exported to local" in " ".join(err.split())
    assert len(web.json("clone", "list")) == 2
    terminal += ["y"]
    assert web.run("clone", "remove", "web-1")[0] == 0
    assert web.run("clone", "reset", "web-2", "--yes")[0] == 0
    assert web.run("clone", "remove", "web-2", "-y")[0] == 0
    terminal += ["n", "y"]
    assert web.run("template", "remove", "debian")[0] == 14
    assert web.run("template", "remove", "debian")[0] == 0
    assert terminal == []
    assert web.run("clone", "remove", "gone")[0] == 4, "there is nothing to ask about"


def test_a_script_is_not_asked(web: Appliance) -> None:
    assert web.run("clone", "remove", "web-1", "web-2")[0] == 0
    assert web.run("template", "remove", "debian")[0] == 0


def test_somebody_is_asked_before_orphans_go(web: Appliance, terminal: list[str]) -> None:
    pool = web.box.pool
    assert web.run("gc")[0] == 0, "without orphans there is nothing to ask about"
    pool.create_thin(700)
    terminal += ["n"]
    status, _, err = web.run("gc")
    assert (status, "nothing was done" in err) == (14, True)
    assert "This loses volume 700 of the durable pool: the catalog does not know it" in " ".join(err.split())
    assert pool.exists(700)
    assert any(volume["state"] == "orphaned" for volume in web.json("gc", "--dry-run")["volumes"])
    terminal += ["y"]
    assert web.run("gc")[0] == 0
    assert not pool.exists(700)
    pool.create_thin(701)
    assert web.run("gc", "--yes")[0] == 0
    assert not pool.exists(701)
    assert terminal == []


def test_a_script_collects_orphans_as_it_is_told(web: Appliance) -> None:
    web.box.pool.create_thin(700)
    assert "1 volume(s) given back" in web.json("gc")["phase"]
    assert not web.box.pool.exists(700)


@pytest.mark.parametrize("words", [("gc",), *LOSING[:3]], ids=" ".join)
def test_at_a_terminal_json_does_nothing_without_yes(
    web: Appliance, terminal: list[str], words: tuple[str, ...]
) -> None:
    web.box.pool.create_thin(700)
    before = web.json("clone", "list"), web.json("template", "list"), web.json("gc", "--dry-run")
    status, out, _ = web.run(*words, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (7, "refused")
    assert "--yes" in error["hint"]
    assert "this loses" in error["why"]
    assert (web.json("clone", "list"), web.json("template", "list"), web.json("gc", "--dry-run")) == before
    assert terminal == [], "no question was put"
