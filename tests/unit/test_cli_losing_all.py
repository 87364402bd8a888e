"""Every command that loses something says so with ``--dry-run``; of the others, it is said here why they need not."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

from appliance.bootset.trace import Read
from appliance.cli import losing
from appliance.cli.main import app
from appliance.host import netlink
from appliance.model import TemplateRef
from tests import own_authority as own
from tests.unit import boot_set_box
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]

OTHER = own.authority("O=Example,CN=other")
HOST = "nqn.2014-08.org.nvmexpress:uuid:0cafe"

ASKED = {
    "clone remove": ("web-1", "web-2"),
    "clone reset": ("web-1",),
    "clone detach": ("web-1", "--force"),
    "clone move": ("web-1", "web-2", "--client", "far", "--force"),
    "clone seed set": ("web-1", "--hostname", "other"),
    "clone seed remove": ("web-1",),
    "template remove": ("bare",),
    "template boot-set import": ("debian", "{boot_set}"),
    "template boot-set remove": ("debian",),
    "client remove": ("far",),
    "client revoke": ("far",),
    "client nvme": ("far", "--none"),
    "authority use": ("--certificate", "{authority}", "--key", "{key}", "--force"),
    "authority renew": ("--force",),
}
"""What loses for good what it is told to, with the words for the box below."""

TOLD = {
    "cache cold": (),
    "clone detach": ("web-1",),
    "clone move": ("web-1", "--client", "far"),
    "clone seed remove": ("web-2",),
    "store reserve release": (),
}
"""What can be had back, or is not there in the box below: it is said, and not asked about."""

LOOKS = {"gc", "store reconcile"}
"""Their ``--dry-run`` is a report of its own. ``gc`` asks about orphans: see test_cli_losing.py."""

NOTHING = {
    **dict.fromkeys(
        ("status", "doctor", "top", "events", "operation list", "operation show", "operation follow"), "it looks"
    ),
    **dict.fromkeys(
        ("template list", "template show", "clone list", "clone show", "clone look", "clone seed show", "client list",
         "client show", "authority show", "measure compare"), "it looks"
    ),
    **dict.fromkeys(
        ("support-bundle", "template boot-set export", "template boot-set trace"), "it writes a new file here, or none"
    ),
    **dict.fromkeys(("template export", "clone export"), "a file that is there is replaced with --force alone"),
    "template add": "a name that is there gets its next version, and keeps the others",
    "template warm": "it reads",
    "template learn": "the boot set that is there stays until there is another one made of boots",
    "template offer": "it adds",
    "template withdraw": "who reads it is cut off with --force alone, and goes on when it is offered again",
    "clone create": "it adds",
    "clone attach": "a clone that a client has is not taken from it",
    "clone resize": "a clone is only made larger",
    "clone renew": "when the time is over can be said anew until then",
    "clone limit": "limits can be set as they were",
    "clone promote": "the clone stays",
    "client add": "who is cut off by a change comes back by itself",
    "client certificate": "it makes a first one, in a folder that has none",
    "client rotate": "the others stay good, and the files are replaced by better ones, as it is for",
    "store backup": "it adds",
    **dict.fromkeys(("store restore", "store repair"), "without --yes they only say what they would do"),
    "operation cancel": "what a job did may be done again",
    **dict.fromkeys(
        ("measure boot", "measure storm", "measure replay"), "their clones are their own; an emptied cache fills again"
    ),
}  # fmt: skip
"""Commands that lose nothing which is not theirs, and why."""


@pytest.fixture
def full(appliance: Appliance, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Appliance:
    """Something of everything: two clones with guests and seeds, a client with certificate and key."""
    monkeypatch.setattr(netlink, "unix_connections", lambda _: (netlink.Connection("pid 7 (qemu)", "1001"),))
    appliance.json("template", "add", "debian", str(image))
    appliance.json("template", "add", "bare", str(image))
    template = appliance.box.service.core.catalog.template(TemplateRef("debian"))
    appliance.box.service.boot_sets.add_run(template, "web", [Read(0, 4096, 0), Read(8192, 512, 70)])
    appliance.json("clone", "create", "web", "-t", "debian", "--count", "2")
    data = tmp_path / "user-data"
    data.write_text("#cloud-config\n")
    appliance.json("clone", "seed", "set", "web-1", "--user-data", str(data))
    appliance.json("clone", "seed", "set", "web-2", "--hostname", "web")
    appliance.json("client", "add", "far", "--tcp", "127.0.0.1:10809")
    appliance.json("client", "certificate", "far", str(tmp_path / "far"))
    appliance.json("client", "nvme", "far", "--listen", "127.0.0.1:4420", "--host-nqn", HOST)
    appliance.json("client", "certificate", "far", str(tmp_path / "nvme"), "--nvme")
    return appliance


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody sits there; what he will answer."""
    answers: list[str] = []
    monkeypatch.setattr(losing, "at_a_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answers.pop(0) == "y")
    return answers


def commands(found: Any, *words: str) -> Iterator[tuple[str, Any]]:
    """All commands of the program, by their words."""
    if hasattr(found, "commands"):
        for name, command in found.commands.items():
            yield from commands(command, *words, name)
    else:
        yield " ".join(words), found


def words_of(command: str, more: tuple[str, ...], folder: Path) -> list[str]:
    files = {"boot_set": boot_set_box.as_file(), "authority": OTHER.certificate, "key": OTHER.key}
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [*command.split(), *(word.format(**{name: folder / name for name in files}) for word in more)]


def all_of_it(full: Appliance) -> list[object]:
    """Whatever may be lost: all that the catalog has, and the cache."""
    with closing(sqlite3.connect(full.box.paths.catalog)) as catalog:
        return [*catalog.iterdump(), full.box.store.cold_calls]


def test_every_command_says_what_it_loses_or_is_known_to_lose_nothing() -> None:
    found = dict(commands(typer.main.get_command(app)))
    dry = {name for name, each in found.items() if any("--dry-run" in option.opts for option in each.params)}
    yes = {name for name, each in found.items() if any("--yes" in option.opts for option in each.params)}
    assert dry == ASKED.keys() | TOLD.keys() | LOOKS
    assert found.keys() - dry == NOTHING.keys()
    assert yes - NOTHING.keys() == (dry - {"cache cold", "store reconcile"})


def test_every_command_speaks_to_programs_but_for_those_that_write_a_file() -> None:
    found = commands(typer.main.get_command(app))
    mute = {name for name, each in found if not any("--json" in option.opts for option in each.params)}
    assert mute == {"template boot-set export", "template boot-set trace"}


@pytest.mark.parametrize("command", ASKED)
def test_what_is_lost_for_good_is_shown_and_asked_about(
    full: Appliance, terminal: list[str], tmp_path: Path, command: str
) -> None:
    words = words_of(command, ASKED[command], tmp_path)
    before = all_of_it(full)
    status, out, _ = full.run(*words, "--dry-run")
    assert (status, "would lose" in out) == (0, True)
    losses = full.json(*words, "--dry-run")["losses"]
    assert [loss["what"] for loss in losses if loss["for_good"]]
    assert all_of_it(full) == before
    terminal += ["n"]
    status, _, err = full.run(*words)
    assert (status, "This loses" in err, "nothing was done" in err) == (14, True, True)
    assert json.loads(full.run(*words, "--json")[1])["error"]["code"] == "refused"
    assert all_of_it(full) == before
    assert full.run(*words, "--yes")[0] == 0
    assert all_of_it(full) != before
    assert terminal == []


@pytest.mark.parametrize("command", TOLD)
def test_what_can_be_had_back_is_shown_and_not_asked_about(
    full: Appliance, terminal: list[str], tmp_path: Path, command: str
) -> None:
    words = words_of(command, TOLD[command], tmp_path)
    before = all_of_it(full)
    status, out, _ = full.run(*words, "--dry-run")
    assert (status, "would lose" in out) == (0, True)
    assert all_of_it(full) == before
    assert full.run(*words)[0] == 0
    assert terminal == []


def test_what_is_not_there_is_not_lost(full: Appliance, terminal: list[str]) -> None:
    for words in (
        ("clone", "detach", "none"), ("clone", "move", "none", "--client", "far"), ("clone", "seed", "set", "none"),
        ("clone", "seed", "remove", "none"), ("template", "boot-set", "remove", "none"), ("client", "remove", "none"),
        ("client", "revoke", "none"), ("client", "nvme", "none", "--none"),
    ):  # fmt: skip
        assert full.run(*words, "--dry-run")[0] == 4, words
        assert full.run(*words)[0] == 4, words
    assert terminal == []


def test_a_detached_clone_has_no_guest_to_be_cut_off(full: Appliance, terminal: list[str]) -> None:
    full.json("clone", "detach", "web-1")
    assert full.run("clone", "detach", "web-1", "--force", "--dry-run")[1] == "nothing would be lost\n"
    assert full.run("clone", "move", "web-1", "--client", "far", "--force")[0] == 0
    assert terminal == []


def test_the_newest_certificate_stays_when_older_ones_are_revoked(full: Appliance, tmp_path: Path) -> None:
    full.json("client", "rotate", "far", str(tmp_path / "new"))
    new, old = (each["serial"] for each in full.json("client", "show", "far")["certificates"])
    said = [loss["what"] for loss in full.json("client", "revoke", "far", "--older", "--dry-run")["losses"]]
    assert said == [f"certificate {old} of client far"]
    said = [loss["what"] for loss in full.json("client", "revoke", "far", "--serial", new, "--dry-run")["losses"]]
    assert said == [f"certificate {new} of client far"]


def test_an_authority_that_is_the_same_ends_nothing(full: Appliance, tmp_path: Path) -> None:
    words = words_of("authority use", ASKED["authority use"], tmp_path)
    assert full.run(*words)[0] == 0
    assert full.json(*words, "--dry-run") == {"losses": []}
