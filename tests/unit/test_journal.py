"""The log's entries: what the journal gets, and what each line is about."""

import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from appliance import journal
from appliance.api.about import fields
from appliance.schema import CloneCreate
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box


def parsed(entry: bytes) -> list[tuple[str, str]]:
    """The fields of an entry, as the journal reads them."""
    found = []
    while entry:
        head, _, rest = entry.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found.append((name.decode(), value.decode()))
        entry = rest
    return found


def test_an_entry_has_the_message_its_level_and_what_it_is_about() -> None:
    entry = journal.entry("two\nlines", logging.WARNING, {"clone": ("a", "b"), "operation": "6-1"})
    assert parsed(entry) == [
        ("MESSAGE", "two\nlines"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "hatcheryd"),
        ("HATCHERY_CLONE", "a"),
        ("HATCHERY_CLONE", "b"),
        ("HATCHERY_OPERATION", "6-1"),
    ]
    assert dict(parsed(journal.entry("x" * 10**6, logging.DEBUG, {})))["PRIORITY"] == "7"
    assert len(journal.entry("x" * 10**6, logging.INFO, {})) < 64 * 1024


@pytest.mark.parametrize("words", ["x\nHATCHERY_CLONE=other", "x\nPRIORITY=0"])
def test_nobody_smuggles_fields_into_an_entry(words: str) -> None:
    found = parsed(journal.entry(words, logging.INFO, {"clone": words}))
    assert [name for name, _ in found] == ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "HATCHERY_CLONE"]
    assert (found[0][1], found[1][1], found[3][1]) == (words, "6", words)


@contextmanager
def journald() -> Iterator[tuple[Path, list[dict[str, str]]]]:
    """What plays the journal, and what it was told."""
    told: list[dict[str, str]] = []

    def listen() -> None:
        while entry := listener.recv(1 << 17):
            told.append(dict(parsed(entry)))

    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        path = Path(folder) / "socket"
        listener.bind(str(path))
        thread = threading.Thread(target=listen)
        thread.start()
        yield path, told
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(path))
        thread.join(10)


def test_lines_of_requests_and_jobs_say_what_they_are_about(tmp_path: Path) -> None:
    with journald() as (path, told), box(tmp_path) as made:
        handler = journal.Handler(path)
        logger = logging.getLogger("appliance")
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            story(made)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)
            handler.close()
        number = made.service.operations.list()[-1].id
    assert all("appliance" not in line["MESSAGE"] for line in told)
    imported = [line for line in told if line.get("HATCHERY_OPERATION") == number]
    said = [line["MESSAGE"] for line in imported]
    assert (said[0], said[-1]) == ("import of debian@1: started", "import of debian@1: done")
    assert len(said) > 3, "and the steps between them"
    assert {line["HATCHERY_TEMPLATE"] for line in imported} == {"debian@1"}
    of_web = [line["MESSAGE"] for line in told if line.get("HATCHERY_CLONE") == "web"]
    assert any("made 1 durable clone(s)" in line for line in of_web), of_web
    assert "clone web is as debian@1 again" in of_web, "which the request's path says"
    assert any("clone web was removed" in line for line in of_web), of_web
    refused = [line for line in told if "does not exist" in line["MESSAGE"]]
    assert [line["HATCHERY_CLONE"] for line in refused] == ["gone"]


def story(made: Box) -> None:
    made.add_template("debian")
    made.service.create_clones(CloneCreate(name="web", template="debian"))
    with serving(made) as api:
        assert api.post("/v1/clones/web/reset").is_success
        assert api.delete("/v1/clones/web").is_success
        assert api.get("/v1/clones/gone").status_code == httpx.codes.NOT_FOUND


def test_without_a_journal_lines_go_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = journal.Handler(tmp_path / "none")
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "still told", (), None))
    handler.close()
    assert "still told" in capfd.readouterr().err
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not journal.is_there()
    assert isinstance(journal.handler(), logging.StreamHandler)
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert journal.is_there()


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/clones/web/size", {"clone": "web"}),
        ("/v1/templates/debian@2", {"template": "debian@2"}),
        ("/v1/clients/hv1/certificates", {"client": "hv1"}),
        ("/v1/operations/6-1/cancel", {"operation": "6-1"}),
        ("/v1/clones", {}),
        ("/v1/status", {}),
    ],
)
def test_a_path_says_what_a_request_is_about(path: str, named: dict[str, str]) -> None:
    assert fields(path) == named
