"""What the console says above its login prompt."""

import pytest

from appliance import console


def show(state: str, sub: str, result: str = "success", words: str = "") -> str:
    return f"ActiveState={state}\nSubState={sub}\nResult={result}\nStatusText={words}\n"


def test_a_box_without_a_store_says_how_to_get_one() -> None:
    said = console.issue(show("inactive", "dead"), deployed=False)
    assert "not deployed" in said
    assert "ansible/deploy.yml" in said
    assert "ssh root@\\4" in said


def test_a_store_that_serves_says_how_it_is() -> None:
    words = "3 of 5 clones exported, cache hits 98 %, pool 3 % full, degraded: /dev/sdb does not answer"
    said = console.issue(show("active", "running", words=words), deployed=True)
    assert f"  health    {words}\n" in said
    assert "  address   \\4 \\6\n" in said
    assert "hatchery status" in said
    assert "deploy.yml" not in said


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (show("activating", "start"), "the store is starting"),
        (show("failed", "failed", "exit-code", "the catalog is damaged"), "failed, exit-code, the catalog is damaged"),
        (show("inactive", "dead", "exit-code"), "does not run: dead, exit-code"),
        ("", "does not run: "),
    ],
)
def test_a_store_that_does_not_serve_says_so_and_what_to_do(shown: str, words: str) -> None:
    said = console.issue(shown, deployed=True)
    assert words in said
    assert ("journalctl" in said) == ("starting" not in said)


def test_a_service_whose_turn_has_not_come_yet_is_no_fault() -> None:
    said = console.issue(show("inactive", "dead"), deployed=True)
    assert "the service is not started" in said
    assert "does not run" not in said


def test_nothing_that_is_passed_on_is_an_escape() -> None:
    said = console.issue(show("active", "running", words="a\\nb \x1b[2J\\e{red} \\4"), deployed=True)
    assert "\x1b" not in said
    assert "a/nb  [2J/e{red} \\4" in said


def test_nobody_takes_it_for_a_login_prompt() -> None:
    for deployed in (False, True):
        for state in ("active", "activating", "failed"):
            assert "login:" not in console.issue(show(state, "x"), deployed=deployed)


def test_an_update_that_was_given_up_is_told_with_what_to_do() -> None:
    why = "version 0.2.0 was given up, and version 0.1.0 runs: hatcheryd.service is failed"
    for deployed in (True, False):
        said = console.issue(show("active", "running"), deployed=deployed, given_up=why)
        assert f"  update    {why}\n" in said
        assert "hatchery-update status" in said
        assert "  update" not in console.issue(show("active", "running"), deployed=deployed)
