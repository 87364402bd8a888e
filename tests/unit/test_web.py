"""The status page over the real API, which may be read there and not changed."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from appliance import schema
from appliance.client import connect
from appliance.errors import NotReady, Refused
from appliance.host import notify
from appliance.model import MIB, Health
from appliance.web import app, main, metrics, page
from tests.unit.service_harness import Box, box
from tests.unit.web_server import filled, read_socket, served


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.fixture
def reading(appliance: Box) -> Iterator[Path]:
    with read_socket(appliance) as socket_:
        yield socket_


@pytest.fixture
def web(reading: Path) -> Iterator[httpx.Client]:
    with served(reading) as client:
        yield client


def test_the_reading_socket_lets_look_and_lets_nothing_change(appliance: Box, reading: Path) -> None:
    filled(appliance)
    with connect(socket=reading) as client:
        assert [clone.name for clone in client.clones()] == ["web-1", "web-2"]
        with pytest.raises(Refused, match="looking"):
            client.remove_clone("web-1")
        with pytest.raises(Refused):
            client.cold()
        with pytest.raises(Refused):
            client.issue_certificate("hv1", schema.CertificateRequest())
        assert len(client.clones()) == 2
    assert reading.stat().st_mode & 0o777 == 0o660


def test_the_page_shows_the_appliance_and_loads_nothing(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    answer = web.get("/")
    assert answer.status_code == 200
    assert "debian@1" in answer.text
    assert "none yet" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert set(loaded) == {"data:,", "metrics", *(f"static/{name}" for name in app.STATIC)}
    for name in app.STATIC:
        found = web.get(f"/static/{name}")
        assert (found.status_code, found.headers["content-type"].split(";")[0]) == (200, app.STATIC[name])
    assert web.get("/static/uplot.LICENSE").status_code == 404
    assert web.get("/static/..%2fapp.py").status_code == 404


def test_the_page_shows_problems_and_escapes_names(appliance: Box) -> None:
    status = appliance.service.status()
    problem = schema.ProblemView(severity=Health.FAILED, what="disk <b>sda</b> is gone", hint="replace it")
    shown = page.render(
        metrics.Answers(status.model_copy(update={"health": Health.FAILED, "problems": (problem,)}), None, (), ()), {}
    )
    assert "disk &lt;b&gt;sda&lt;/b&gt; is gone" in shown
    assert "Do: replace it" in shown
    assert "<title>Hatchery: failed</title>" in shown


def test_a_boot_sets_map_covers_what_it_reads_and_no_more() -> None:
    length = page.CELLS * MIB
    shown = page.cells([(0, MIB), (2 * MIB, MIB // 2), (length - 4096, 8192)], length)
    assert shown[:4] == (page.SHADES, 0, page.SHADES // 2, 0)
    assert shown[-1] == 1
    assert sum(map(bool, shown)) == 3
    assert page.cells([(0, length)], length) == (page.SHADES,) * page.CELLS
    assert page.map_words(shown, length) == "in 3 of 240 stretches of 1.0 MiB, from 0 B to 240.0 MiB"
    assert page.map_words((0, 0), length) == "nowhere"


def test_the_heat_maps_darkest_cell_is_the_fullest() -> None:
    assert [page.shade(count, 1000) for count in (0, 1, 1000)] == [0, 2, page.SHADES]
    disk = schema.DiskHistogram(role="backend", disk="sda", histogram=schema.HistogramView(counts=(0, 0, 5, 0, 900)))
    heat = page.heat((disk,))
    assert heat.buckets == ("8 µs", "16 µs", "32 µs")
    assert [level for level, _ in heat.rows[0].cells][-1] == page.SHADES
    assert heat.rows[0].cells[1] == (0, "0 requests")


def test_the_page_takes_the_same_with_any_number_of_clones(
    appliance: Box, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(appliance)

    def slow(*_: object) -> NoReturn:
        raise AssertionError("each clone is looked at")

    monkeypatch.setattr(appliance.service._views, "clone", slow)
    monkeypatch.setattr(appliance.service.measure, "_active", slow)
    assert "<b>2</b>" in web.get("/").text


def test_many_clones_are_told_briefly(appliance: Box, reading: Path) -> None:
    filled(appliance)
    with connect(socket=reading) as client:
        whole, brief = client.clones(), client.clones(brief=True)
        assert client.counters(clones=False).clones == {}
        assert set(client.counters().clones) == {"web-1", "web-2"}
    assert all(view.qemu and view.libvirt for view in whole)
    plain = {"qemu": (), "libvirt": None, "written_bytes": None}
    assert [view.model_copy(update=plain) for view in whole] == list(brief)


def test_health_is_a_word_and_a_status(web: httpx.Client, appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = web.get("/health")
    expected = appliance.service.status().health
    assert (answer.status_code, answer.text) == (200, f"{expected}\n")
    failed = appliance.service.status().model_copy(update={"health": Health.FAILED})
    monkeypatch.setattr(appliance.service, "status", lambda: failed)
    assert (web.get("/health").status_code, web.get("/health").text) == (503, "failed\n")


# httpcore leaves a unix socket that nobody listens on to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_hatcheryd_it_says_why(tmp_path: Path) -> None:
    with served(tmp_path / "none") as web:
        for path in ("/", "/metrics", "/health"):
            answer = web.get(path)
            assert answer.status_code == 503
            assert "hatcheryd" in answer.text


def test_nothing_to_listen_on_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with pytest.raises(NotReady) as refused:
        notify.passed_sockets()
    assert "socket" in refused.value.hint
    for wrong in ("nonsense", "127.0.0.1:99999", "256.0.0.1:80"):
        with pytest.raises(NotReady, match="ADDRESS:PORT"):
            main.bound(wrong)


def test_passed_sockets_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with main.bound("127.0.0.1:0") as listener:
        duplicate = os.dup(listener.fileno())
        monkeypatch.setattr(notify, "FIRST_PASSED", duplicate)
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        [passed] = notify.passed_sockets()
        with passed, socket.create_connection(listener.getsockname()):
            assert passed.getsockname() == listener.getsockname()


def test_httpx_speaks_to_the_reader_as_to_the_api(reading: Path) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(reading)), base_url="http://hatchery") as http:
        refused = http.put("/v1/clients/x", json={"transport": "unix"})
        assert refused.status_code == 403
        assert refused.headers["content-type"] == schema.PROBLEM_TYPE
