"""An image from a server that breaks off: gone on with, begun anew, or given up, and never mixed with another one."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from appliance.errors import BadImage, NotReady, Refused
from appliance.images.http_source import UrlSource
from appliance.images.resuming import ResumingSource
from appliance.images.sources import PLAIN, Manner, WebSource

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(1000))
URL = "http://192.0.2.1/disk.raw"


@dataclass
class Site:
    """A server. ``cuts`` are how many bytes it sends of each answer before it hangs up; then all."""

    cuts: list[int] = field(default_factory=list)
    content: bytes = CONTENT
    tag: str = '"one"'
    ranges: bool = True
    broken: int = 0
    """So many requests it answers with an error of its own, after the first."""
    asked: list[str] = field(default_factory=list)
    then: tuple[bytes, str] | None = None
    """What it has there after the first answer."""

    def open(self, url: str, manner: Manner = PLAIN) -> WebSource:
        return UrlSource(url, manner, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        first, self.asked = not self.asked, [*self.asked, request.headers.get("Range", "all")]
        if not first and self.then is not None:
            self.content, self.tag = self.then
        if not first and self.broken:
            self.broken -= 1
            return httpx.Response(503)
        begin = 0
        if self.ranges and "Range" in request.headers and request.headers.get("If-Range", self.tag) == self.tag:
            begin = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = self.content[begin:]
        headers = {"Content-Length": str(len(body))} | ({"ETag": self.tag} if self.tag else {})
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}"
        stream = _Stream(body, self.cuts.pop(0) if self.cuts else None)
        return httpx.Response(206 if begin else 200, headers=headers, stream=stream)


class _Stream(httpx.SyncByteStream):
    def __init__(self, body: bytes, cut: int | None) -> None:
        self._body, self._cut = body, cut

    def __iter__(self) -> Iterator[bytes]:
        yield from (self._body[: self._cut][at : at + 100] for at in range(0, len(self._body[: self._cut]), 100))
        if self._cut is not None:
            raise httpx.RemoteProtocolError("peer closed connection")


def fetched(site: Site, tries: int = 3) -> bytes:
    source = ResumingSource(URL, site.open, (0.0,) * tries)
    assert source.size() == len(CONTENT)
    try:
        return b"".join(source.chunks())
    finally:
        source.close()


def test_it_goes_on_where_it_broke_off() -> None:
    site = Site(cuts=[1050, 300, 0])
    assert fetched(site) == CONTENT
    assert site.asked == ["all", "bytes=1050-", "bytes=1350-", "bytes=1350-"]


def test_a_server_that_cannot_go_on_sends_it_once_more() -> None:
    for tag in ('"one"', 'W/"weak"', ""):
        site = Site(cuts=[1050], ranges=False, tag=tag)
        assert fetched(site) == CONTENT


def test_a_server_that_answers_nobody_for_a_while_is_waited_for() -> None:
    site = Site(cuts=[1050], broken=2)
    assert fetched(site) == CONTENT
    with pytest.raises(NotReady, match="cannot be fetched"):
        fetched(Site(cuts=[1050], broken=9))


def test_one_that_breaks_off_all_the_time_is_given_up() -> None:
    site = Site(cuts=[100] + [0] * 9)
    with pytest.raises(BadImage, match="broke off"):
        fetched(site)
    assert len(site.asked) == 4
    # As long as anything comes, it goes on.
    assert fetched(Site(cuts=[100] * 20)) == CONTENT


@pytest.mark.parametrize("then", [(CONTENT[::-1], '"two"'), (CONTENT + b"more", "")])
def test_another_file_is_never_put_behind_the_first(then: tuple[bytes, str]) -> None:
    site = Site(cuts=[1050], tag='"one"' if then[1] else "", then=then)
    with pytest.raises(Refused, match="cannot be gone on with"):
        fetched(site)


def test_who_wants_no_more_ends_its_waiting() -> None:
    site = Site(cuts=[1050])
    source = ResumingSource(URL, site.open, (60.0,))
    chunks = source.chunks()
    next(chunks)
    source.close()
    with pytest.raises(BadImage):
        list(chunks)
