"""Events: the ring that keeps them, the stream that sends them, and the command that prints them."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import client, schema
from appliance.api import events as stream
from appliance.api.app import make_app
from appliance.cli.main import main
from appliance.errors import InUse
from appliance.model import Health, Problem
from appliance.service.events import BATCH, READERS, Events
from appliance.wait import until
from tests.unit.api_server import serving
from tests.unit.service_harness import IMAGE, Box, box
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made, serving(made):
        yield made


def nothing() -> None:
    pass


def told(events: Events, after: str | None = None) -> list[tuple[str, str, str]]:
    """All that there is now for a reader who comes now."""
    reader = events.join(nothing, after)
    found: list[schema.Event] = []
    while batch := reader.take():
        found += batch
    reader.leave()
    return [(event.kind, event.subject, event.state) for event in found]


# --- the ring


def test_a_reader_gets_what_is_remembered_and_then_what_comes() -> None:
    events = Events()
    events.tell("clone", "a", "ready")
    woken: list[int] = []
    reader = events.join(lambda: woken.append(1))
    events.tell("clone", "b", "ready")
    assert [event.subject for event in reader.take()] == ["a", "b"]
    assert (reader.take(), woken) == ((), [])
    events.tell("clone", "c", "ready")
    events.tell("clone", "d", "ready")
    assert woken == [1], "who has been woken need not be woken again"
    assert [event.subject for event in reader.take()] == ["c", "d"]
    ids = [event.id for event in events.join(nothing).take()]
    assert len(set(ids)) == 4


def test_a_reader_goes_on_where_he_was() -> None:
    events = Events(kept=10)
    for number in range(10):
        events.tell("clone", str(number), "ready")
    reader = events.join(nothing)
    ids = [event.id for event in reader.take()]
    assert [subject for _, subject, _ in told(events, ids[6])] == ["7", "8", "9"]
    assert told(events, ids[9]) == []
    for unknown in (
        "",
        "x",
        "1-1",
        ids[0] + "99",
        ids[0] + "9" * 5000,
        ids[0].replace("-1", "-99"),
        ids[0].replace("-1", "--1"),
    ):
        reader = events.join(nothing, unknown)
        (reset,) = reader.take()
        assert (reset.kind, reader.ended) == ("reset", False), unknown
        events.tell("clone", "next", "ready")
        assert [event.subject for event in reader.take()] == ["next"]
        assert [event.subject for event in events.join(nothing, reset.id).take()][:1] == ["next"]
        reader.leave()


def test_who_is_too_slow_is_told_so_and_cut_off() -> None:
    events = Events(kept=10)
    reader = events.join(nothing)
    for number in range(11):
        events.tell("clone", str(number), "ready")
    (reset,) = reader.take()
    assert (reset.kind, reader.ended) == ("reset", True)
    assert len(told(events)) == 10, "what is remembered is bounded"


def test_there_are_so_many_readers_and_no_more() -> None:
    events = Events()
    readers = [events.join(nothing) for _ in range(READERS)]
    with pytest.raises(InUse):
        events.join(nothing)
    readers[0].leave()
    events.join(nothing)


def test_much_is_taken_in_batches() -> None:
    events = Events()
    for number in range(BATCH + 1):
        events.tell("clone", str(number), "ready")
    reader = events.join(nothing)
    assert [len(reader.take()) for _ in range(3)] == [BATCH, 1, 0]


# --- what is told


def test_clones_templates_and_operations_are_told(tmp_path: Path) -> None:
    with box(tmp_path) as made:
        service = made.service
        made.add_template("debian")
        service.create_clones(schema.CloneCreate(name="web", template="debian", client=None))
        service.clones.attach("web", "local")
        service.clones.attach("web", "local")
        service.life.resize("web", 8 << 20)
        service.life.renew("web", 60.0)
        service.life.reset("web", force=True)
        service.clones.detach("web", force=True)
        assert service.life.promote("web", "golden").finished.wait(10)
        service.clones.remove("web", force=True)
        service.templates.remove("golden")
        assert made.add_template("bad", size=len(IMAGE) + 1).state == "failed"
        operation, promotion, failed = (each.id for each in reversed(service.operations.list()))
        assert told(service.events) == [
            ("operation", operation, "running"),
            ("template", "debian@1", "importing"),
            ("template", "debian@1", "ready"),
            ("operation", operation, "succeeded"),
            ("clone", "web", "ready"),
            ("clone", "web", "attached"),
            ("clone", "web", "resized"),
            ("clone", "web", "renewed"),
            ("clone", "web", "reset"),
            ("clone", "web", "detached"),
            ("template", "golden@1", "ready"),
            ("operation", promotion, "running"),
            ("operation", promotion, "succeeded"),
            ("clone", "web", "removed"),
            ("template", "golden@1", "removed"),
            ("operation", failed, "running"),
            ("template", "bad@1", "importing"),
            ("template", "bad@1", "failed"),
            ("operation", failed, "failed"),
        ]


def test_problems_that_come_and_go_are_told(tmp_path: Path) -> None:
    with box(tmp_path) as made:
        made.store.problems = (Problem(Health.DEGRADED, "the pool is 80 % full", "remove clones"),)
        made.service.monitor.look()
        made.service.monitor.look()
        made.store.problems = ()
        made.service.monitor.look()
        made.pool.create_thin(700)
        made.service.reconcile()
        made.pool.delete(700)
        made.service.reconcile()
        assert told(made.service.events) == [("problem", "store", state) for state in ("degraded", "ok") * 2]


def test_a_template_that_goes_with_its_last_clone_is_told(tmp_path: Path) -> None:
    with box(tmp_path) as made:
        made.add_template("debian")
        made.service.create_clones(schema.CloneCreate(name="web", template="debian"))
        last = made.service.events.join(nothing).take()[-1].id
        made.service.core.catalog.retire_template(1, 0.0)
        made.service.clones.remove("web", force=True)
        assert told(made.service.events, last) == [("clone", "web", "removed"), ("template", "debian@1", "removed")]


# --- the stream


def test_a_stream_goes_on_and_ends_with_the_service(tmp_path: Path) -> None:
    found: list[schema.Event] = []
    with box(tmp_path) as made:

        def read() -> None:
            with client.connect(socket=made.paths.api_socket) as connection:
                found.extend(connection.events())

        with serving(made):
            made.service.events.tell("clone", "early", "ready")
            thread = threading.Thread(target=read)
            thread.start()
            until(lambda: any(reader.waits for reader in made.service.events._readers), "a reader", deadline=10)
            for number in range(3):
                made.service.events.tell("clone", f"late-{number}", "ready", "words with ä and\nlines")
            begun = time.monotonic()
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - begun < 4, "nobody waits for streams"
        assert [event.subject for event in found] == ["early", "late-0", "late-1", "late-2"]
        assert found[-1].words == "words with ä and\nlines"
        assert made.service.events._readers == set()


def test_the_last_id_is_where_it_goes_on(served: Box) -> None:
    for number in range(5):
        served.service.events.tell("clone", str(number), "ready")
    with client.connect(socket=served.paths.api_socket) as connection:
        whole = list(connection.events(follow=False))
        assert [event.subject for event in whole] == ["0", "1", "2", "3", "4"]
        assert list(connection.events(whole[2].id, follow=False)) == whole[3:]
        assert [event.kind for event in connection.events("another-1", follow=False)] == ["reset"]


def test_too_many_readers_are_a_problem_of_its_kind(served: Box) -> None:
    for _ in range(READERS):
        served.service.events.join(nothing)
    with client.connect(socket=served.paths.api_socket) as connection, pytest.raises(InUse, match="too many readers"):
        next(connection.events())


def test_a_reader_who_goes_away_gives_his_place_back(served: Box) -> None:
    events = served.service.events
    events.tell("clone", "web", "ready")
    for _ in range(3):
        with client.connect(socket=served.paths.api_socket) as connection:
            assert next(connection.events()).subject == "web"
        until(lambda: not events._readers, "the reader to be forgotten", deadline=10)


def test_a_slow_reader_keeps_nobody_and_is_cut_off(served: Box) -> None:
    events = served.service.events
    with socket.socket(socket.AF_UNIX) as reader:
        reader.settimeout(20)
        reader.connect(str(served.paths.api_socket))
        reader.sendall(b"GET /v1/events HTTP/1.1\r\nHost: hatchery\r\n\r\n")
        until(lambda: any(each.waits for each in events._readers), "the reader", deadline=10)
        begun = time.monotonic()
        for number in range(15_000):
            events.tell("clone", str(number), "ready", "x" * 200)
        assert time.monotonic() - begun < 5
        with client.connect(socket=served.paths.api_socket) as connection:
            assert connection.status().clones == 0, "others are served"
        received = bytearray()
        while b"event: reset" not in received or not received.endswith(b"0\r\n\r\n"):
            piece = reader.recv(65536)
            assert piece, "it ends with the reset"
            received += piece
    assert received.count(b"event: reset") == 1
    assert received.count(b"event: clone") < 15_000
    until(lambda: not events._readers, "the reader to be forgotten", deadline=10)


def run_stream(made: stream.Stream, send: Any, gone: "asyncio.Event | None" = None) -> None:
    """The real application's answer, to a server that is played here."""

    async def receive() -> dict[str, str]:
        if gone is not None:
            await gone.wait()
        else:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def both() -> None:
        await asyncio.wait_for(made({"type": "http"}, receive, send), 10)

    asyncio.run(both())


def test_a_stream_without_news_shows_that_it_lives() -> None:
    events, beats = Events(), 0

    async def send(message: Any) -> None:
        nonlocal beats
        beats += message.get("body", b"").startswith(b":")
        if beats == 2:
            events.close()

    run_stream(stream.Stream(events, None, follow=True, heartbeat=0.01), send)
    assert beats == 2


def test_who_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.05)
    events = Events()
    events.tell("clone", "web", "ready")

    async def send(message: Any) -> None:
        if b"web" in message.get("body", b""):
            await asyncio.Event().wait()

    run_stream(stream.Stream(events, None, follow=True), send)
    assert events._readers == set()


def test_it_is_described(tmp_path: Path) -> None:
    with box(tmp_path) as made:
        route = make_app(made.service).openapi()["paths"]["/v1/events"]["get"]
    assert list(route["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {parameter["name"].lower() for parameter in route["parameters"]} == {"last-event-id", "follow"}


# --- the command


def test_the_command_prints_a_line_an_event(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian", str(image))
    status, out, _ = appliance.run("events")
    lines = out.splitlines()
    assert (status, len(lines)) == (0, 4)
    assert "template   debian@1  ready" in lines[2]
    status, out, _ = appliance.run("events", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [event["kind"] for event in found] == ["operation", "template", "template", "operation"]
    status, out, _ = appliance.run("events", "--after", found[2]["id"])
    assert (status, len(out.splitlines())) == (0, 1)


def test_the_command_follows_until_the_service_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with box(tmp_path) as made, serving(made):
        events = made.service.events

        def end() -> None:
            until(lambda: any(reader.waits for reader in events._readers), "the command", deadline=10)
            events.close()

        events.tell("clone", "web", "ready")
        timer = threading.Thread(target=end)
        timer.start()
        status = main(["--socket", str(made.paths.api_socket), "events", "--follow"])
        timer.join()
    said = capsys.readouterr()
    assert status == 9
    assert "clone      web  ready" in said.out
    assert "the events ended" in said.err
