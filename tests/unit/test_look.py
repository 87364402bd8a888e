"""A look into a disk without a kernel: what blkid and sfdisk said, and how the command tells of it."""

import json
from pathlib import Path

import pytest

from appliance.attach import look
from appliance.attach.look import Part
from appliance.cli import clone_look
from appliance.errors import CannotTell, Refused
from appliance.model import MIB
from appliance.run import Completed, Runner
from appliance.service.stills import DAEMON
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]

DATA = Path(__file__).resolve().parents[1] / "data"


def recorded(tool: str, case: str) -> str:
    (file,) = (DATA / tool).glob(f"*-{case}")
    return file.read_text(encoding="utf-8")


def test_what_blkid_says_is_read() -> None:
    found = look.values(recorded("blkid", "ext4.export"))
    assert (found["TYPE"], found["LABEL"]) == ("ext4", "a <b> $c")
    assert look.values(recorded("blkid", "gpt.export"))["PTTYPE"] == "gpt"
    assert look.values("") == {}
    assert look.values("LABEL=\x1b[2Jx\\\\y\n") == {"LABEL": " [2Jx\\y"}


@pytest.mark.parametrize("case", ["gpt.json", "dos.json"])
def test_what_sfdisk_says_is_read(case: str) -> None:
    said = recorded("sfdisk", case)
    found = look.partitions(said, 64 * MIB)
    names = ("esp", "root [red]") if case.startswith("gpt") else ("", "")
    assert [(part.number, part.start, part.size, part.name) for part in found] == [
        (1, 1 * MIB, 8 * MIB, names[0]),
        (2, 9 * MIB, 16 * MIB, names[1]),
    ]
    # A table may say what it likes: what is not on the disk is not read.
    assert [part.number for part in look.partitions(said, 10 * MIB)] == [1]


@pytest.mark.parametrize("said", ["", "{}", '{"partitiontable": 1}', '{"partitiontable": {"partitions": [{}]}}'])
def test_a_table_that_cannot_be_read_has_no_partitions(said: str) -> None:
    assert look.partitions(said, MIB) == ()


def test_no_more_partitions_than_there_usually_are() -> None:
    many = [{"node": f"/dev/nbd0p{number}", "start": number, "size": 1} for number in range(1, 1000)]
    assert len(look.partitions(json.dumps({"partitiontable": {"partitions": many}}), MIB)) == look.MOST_PARTITIONS


def said(monkeypatch: pytest.MonkeyPatch, stdout: str, returncode: int = 0) -> Runner:
    """Says what a program would have said, and with which status it would have ended."""
    runner = Runner()
    monkeypatch.setattr(runner, "run", lambda *_, **__: Completed((), returncode, stdout, "its own words"))
    return runner


def test_what_the_program_failed_with_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"code": "refused", "what": "the kernel refuses it", "why": "no right", "hint": "run it as root"}
    with pytest.raises(Refused, match=r"the kernel refuses it: no right \(run it as root\)"):
        clone_look.looked("nbd://a/b", said(monkeypatch, json.dumps({"error": error}), 1))
    for words, status in (("", 0), ("nonsense", 1), ("{}", 1), ('[{"number": 1}]', 0)):
        with pytest.raises(CannotTell, match="its own words"):
            clone_look.looked("nbd://a/b", said(monkeypatch, words, status))


PARTS = (
    clone_look.Part(number=0, start=0, size=64 * MIB, name="", holds="gpt partition table", label="", uuid="1-2"),
    clone_look.Part(number=1, start=MIB, size=MIB, name="root", holds="ext4", label="[red]x", uuid="3-4"),
)


def test_a_clone_is_looked_into_by_a_still(appliance: Appliance, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.json("template", "add", "debian", str(image))
    appliance.json("clone", "create", "web", "-t", "debian")
    seen: list[str] = []

    def looked(uri: str, _: Runner) -> tuple[clone_look.Part, ...]:
        seen.extend(still.subject for still in appliance.box.service.stills.list().stills if still.uri == uri)
        return PARTS

    monkeypatch.setattr(clone_look, "looked", looked)
    assert appliance.json("clone", "look", "web") == [part.model_dump() for part in PARTS]
    assert seen == ["clone web"]
    status, out, _ = appliance.run("clone", "look", "web")
    assert status == 0
    assert "[red]x" in out, "a guest's label is no markup"
    assert appliance.box.service.stills.list().stills == ()
    assert DAEMON not in appliance.box.units.daemons

    def fails(uri: str, _: Runner) -> tuple[clone_look.Part, ...]:
        raise Refused(uri)

    monkeypatch.setattr(clone_look, "looked", fails)
    assert appliance.run("clone", "look", "web")[0] == 7
    assert appliance.run("clone", "look", "db")[0] == 4
    assert appliance.box.service.stills.list().stills == ()


def test_a_part_is_told_with_all_that_it_has() -> None:
    # What one program prints, the other one reads.
    fields = set(clone_look.Part.model_fields)
    assert fields == set(Part.__slots__)
