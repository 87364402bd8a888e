"""The audit log: who asked for what, and what became of it; no secret is in it."""

import os
import pwd
import socket
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest

from appliance.api import audit
from appliance.host import journal
from appliance.host.audit import unasked
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box

Told = list[Mapping[str, str]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    found: Told = []
    plain = audit.audited
    monkeypatch.setattr(audit, "audited", lambda app: plain(app, found.append))
    return found


@pytest.fixture
def api(told: Told, tmp_path: Path) -> Iterator[tuple[httpx.Client, Box]]:
    assert told == []
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        made.service.events.unasked = partial(unasked, tell=told.append)
        with serving(made) as client:
            yield client, made


def test_who_asked_for_what_and_what_became_of_it(api: tuple[httpx.Client, Box], told: Told) -> None:
    client, _ = api
    seed = {"user_data": "#cloud-config\npassword: hush"}
    wanted = {"name": "web", "template": "debian", "count": 2, "seed": seed}
    assert client.post("/v1/clones", json=wanted).status_code == 201
    client.get("/v1/clones")
    (line,) = told
    me = pwd.getpwuid(os.getuid()).pw_name
    assert (line["SYSLOG_IDENTIFIER"], line["HATCHERY_USER"]) == ("hatchery-audit", me)
    assert (line["HATCHERY_UID"], line["HATCHERY_PID"]) == (str(os.getuid()), str(os.getpid()))
    assert (line["HATCHERY_METHOD"], line["HATCHERY_PATH"]) == ("POST", "/v1/clones")
    assert (line["HATCHERY_NAMES"], line["HATCHERY_RESULT"]) == ("name=web template=debian count=2", "done")
    assert "POST /v1/clones name=web template=debian count=2: done" in line["MESSAGE"]
    assert "hush" not in str(told)


def test_what_was_refused_says_why(api: tuple[httpx.Client, Box], told: Told) -> None:
    client, _ = api
    client.delete("/v1/clones/none")
    client.put("/v1/clones/none/attachment", json={"client": "local"})
    client.post("/v1/clones", content=b"{", headers={"Content-Type": "application/json"})
    client.put("/v1/clones/none/size", content=b"[1]", headers={"Content-Type": "application/json"})
    client.post("/v1/moves", json={"clones": ["web", {"key": "hush"}], "client": {"key": "hush"}})
    assert told.pop()["HATCHERY_NAMES"] == "clones=web,... client=..."
    said = [(line["HATCHERY_PATH"], line["HATCHERY_STATUS"], line["HATCHERY_PROBLEM"]) for line in told]
    assert said[0] == ("/v1/clones/none", "200", "")
    assert said[1] == ("/v1/clones/none/attachment", "404", "not-found: clone none does not exist")
    assert [each[1] for each in said[2:]] == ["422", "422"]
    assert all(each[2].startswith("invalid-input: ") for each in said[2:])
    assert [line["HATCHERY_RESULT"] for line in told] == ["done", "refused", "refused", "refused"]


def test_what_nobody_asked_for_is_there_too(
    api: tuple[httpx.Client, Box], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, made = api
    client.post("/v1/clones", json={"name": "brief", "template": "debian", "expires_in": 60})
    now = made.service.core.now()
    monkeypatch.setattr(made.service.core, "now", lambda: now + 3600)
    made.service.life.end_leases()
    assert [line["HATCHERY_USER"] for line in told][-1] == "hatcheryd"
    assert told[-1]["MESSAGE"] == "hatcheryd: clone brief: removed, had a lease that ended"


def test_a_large_body_goes_through_and_names_nothing(api: tuple[httpx.Client, Box], told: Told) -> None:
    client, _ = api
    wanted = {"name": "web", "template": "debian", "seed": {"ssh_keys": ["ssh-ed25519 " + "A" * 70000]}}
    client.post("/v1/clones", json=wanted)
    assert told[-1]["HATCHERY_NAMES"] == ""


def test_the_journal_gets_fields(tmp_path: Path) -> None:
    where = tmp_path / "socket"
    assert not journal.send({"MESSAGE": "x"}, where)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(where))
        assert journal.send({"MESSAGE": "one", "A": "two\nlines"}, where)
        assert heard.recv(1000) == b"MESSAGE=one\nA\n" + struct.pack("<Q", 9) + b"two\nlines\n"
