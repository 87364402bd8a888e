"""A URL that another process fetches: what it writes is what is read, errors and broken-off images too."""

import io
from collections.abc import Callable, Iterator

import httpx
import pytest
from httpx import MockTransport

from appliance.errors import BadImage, HatcheryError, InvalidInput, NotFound, NotReady
from appliance.images import fetch
from appliance.images.fetch import FetchedSource
from appliance.images.http_source import UrlSource
from appliance.images.sources import CHUNK, PLAIN, Manner

URL = "https://images.test/a.raw"
Answer = Callable[[httpx.Request], httpx.Response]


class Done:
    """What a process wrote until it ended, and how it ended."""

    def __init__(self, text: bytes, why: str = "") -> None:
        self._text = io.BytesIO(text)
        self._why = why
        self.stopped = False

    def read(self, count: int) -> bytes:
        return self._text.read(count)

    def readline(self, count: int) -> bytes:
        return self._text.readline(count)

    def end(self) -> str:
        return self._why

    def stop(self) -> None:
        self.stopped = True


def fetched(answer: Answer, manner: Manner = PLAIN) -> tuple[FetchedSource, Done]:
    """The source, and the transfer that stands for a process which met this server."""
    output = io.BytesIO()
    why = ""
    try:
        fetch.serve(
            fetch.order(URL, manner),
            output,
            lambda url, how=PLAIN: UrlSource(url, how, transport=MockTransport(answer)),
        )
    except HatcheryError as error:
        why = error.why
    transfer = Done(output.getvalue(), why)
    return FetchedSource(URL, lambda _: transfer), transfer


def test_an_image_comes_as_it_is_with_its_size() -> None:
    body = b"\n{}\n\0image"
    source, transfer = fetched(lambda _: httpx.Response(200, content=iter([body]), headers={"Content-Length": "10"}))
    assert source.size() == len(body) == 10
    assert b"".join(source.chunks()) == body
    source.close()
    assert transfer.stopped


def test_a_server_that_tells_no_length_leaves_the_size_open() -> None:
    source, _ = fetched(lambda _: httpx.Response(200, content=iter([b"image"])))
    assert source.size() is None
    assert b"".join(source.chunks()) == b"image"


def test_what_is_wanted_reaches_the_process_whole() -> None:
    manner = Manner(begin=7, encrypted=True, authority="-----BEGIN\nä\n", look=True)
    assert fetch.parse_order(fetch.order(URL, manner)) == (URL, manner)


@pytest.mark.parametrize("resumes", [True, False])
def test_a_server_that_can_goes_on_where_it_stopped(resumes: bool) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Range"] == "bytes=2-"
        if resumes:
            length = {"Content-Range": "bytes 2-4/5", "Content-Length": "3"}
            return httpx.Response(206, content=iter([b"age"]), headers=length)
        return httpx.Response(200, content=iter([b"image"]), headers={"Content-Length": "5"})

    source, _ = fetched(answer, Manner(begin=2))
    assert (source.begins(), source.size()) == ((2, 3) if resumes else (0, 5))
    assert b"".join(source.chunks()) == (b"age" if resumes else b"image")


@pytest.mark.parametrize("begins", ["bytes 0-4/5", "bytes */5", ""])
def test_other_bytes_than_those_that_were_asked_for_are_refused(begins: str) -> None:
    source, _ = fetched(lambda _: httpx.Response(206, content=b"image", headers={"Content-Range": begins}), Manner(2))
    with pytest.raises(NotFound, match="206"):
        source.begins()


def refuse(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [(lambda _: httpx.Response(404), NotFound, "404"), (refuse, NotReady, "no route")],
    ids=["not there", "no server"],
)
def test_what_the_server_refuses_is_said_as_it_was_there(answer: Answer, kind: type[HatcheryError], words: str) -> None:
    source, _ = fetched(answer)
    with pytest.raises(kind) as caught:
        source.size()
    assert type(caught.value) is kind
    assert words in caught.value.why
    assert URL in caught.value.what


def test_an_image_that_breaks_off_is_bad_though_bytes_came() -> None:
    def body() -> Iterator[bytes]:
        yield bytes(CHUNK)
        raise httpx.ReadError("connection reset")

    source, _ = fetched(lambda _: httpx.Response(200, content=body()))
    assert source.size() is None
    chunks = source.chunks()
    assert next(chunks) == bytes(CHUNK)
    with pytest.raises(BadImage, match="broke off") as caught:
        next(chunks)
    assert "connection reset" in caught.value.why


@pytest.mark.parametrize("text", [b"", b"Failed to start transient service unit\n", b"[]\n"])
def test_a_process_that_did_not_start_is_not_taken_for_a_server(text: bytes) -> None:
    source = FetchedSource(URL, lambda _: Done(text, "no such unit"))
    with pytest.raises(NotReady, match="cannot be fetched") as caught:
        source.size()
    assert caught.value.why == "no such unit"


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "http://", "http://a/\nhttp://b"])
def test_other_urls_are_refused_before_anything_is_started(url: str) -> None:
    def begin(_: str) -> Done:
        raise AssertionError("nothing is to be started")

    with pytest.raises(InvalidInput):
        FetchedSource(url, begin)


def test_the_url_is_not_on_a_command_line_and_proxies_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    words = fetch.command("hatchery-fetch@1.service")
    assert "--property=Environment=HTTPS_PROXY=http://proxy.test:3128" in words
    assert words[-2:] == ("-m", "appliance.images.fetch")
    assert not any("BindsTo" in word for word in fetch.command("hatchery-fetch@1.service", bound_to=None))
    for needed in ("DynamicUser=yes", "PrivateDevices=yes", "CapabilityBoundingSet=", "BindsTo=hatcheryd.service"):
        assert f"--property={needed}" in words
