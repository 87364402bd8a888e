"""Running a program on the appliance."""

import pytest

from appliance.errors import InvalidInput
from appliance.remote import OPTIONS_VARIABLE, command_line

WORDS = ["hatchery-store", "backup", "--to", "/a folder"]


def test_here_the_words_stay_as_they_are() -> None:
    assert command_line(None, WORDS, terminal=True) == tuple(WORDS)


def test_elsewhere_ssh_runs_them_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, "-p 2222")
    line = command_line("root@box", WORDS, terminal=True)
    assert line == ("ssh", "-t", "-p", "2222", "root@box", "--", "hatchery-store backup --to '/a folder'")
    # An archive on standard output must not pass through a terminal.
    assert "-T" in command_line("root@box", WORDS, terminal=False)


def test_a_host_that_is_an_option_is_refused() -> None:
    with pytest.raises(InvalidInput):
        command_line("-oProxyCommand=x", WORDS, terminal=False)
