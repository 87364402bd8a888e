"""What gives access to a URL is never shown: not in the log, nor to who may only look, whatever comes of the import."""

import base64
import io
import json
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from appliance.api import audit
from appliance.catalog import Catalog
from appliance.cli.main import main
from appliance.daemon import NOISY
from appliance.errors import HatcheryError, InvalidInput
from appliance.host.audit import unasked
from appliance.images import fetch
from appliance.images.resuming import ResumingSource
from appliance.images.sources import PLAIN, Manner, Opener, Source, WebSource, check_url, open_url
from appliance.redact import LEFT_OUT, shown_url
from appliance.service import remotes
from tests.https_server import Site, serve
from tests.unit.api_server import serving
from tests.unit.catalog_rows import ready
from tests.unit.service_harness import IMAGE, Box, box
from tests.unit.test_image_fetch import Done

SECRET = "hunter2Xk93"  # noqa: S105 - it is what must not come out
LOGIN = f"Basic {base64.b64encode(f'user:{SECRET}'.encode()).decode()}"
QUERY = f"X-Amz-Signature={SECRET}&{SECRET}#{SECRET}"

URLS = [
    (f"https://user:{SECRET}@mirror/disk.raw", f"https://{LEFT_OUT}@mirror/disk.raw"),
    (f"https://{SECRET}@mirror:8080/disk.raw", f"https://{LEFT_OUT}@mirror:8080/disk.raw"),
    (f"https://u@{SECRET}@[2001:db8::1]:80/disk.raw", f"https://{LEFT_OUT}@[2001:db8::1]:80/disk.raw"),
    (f"https://mirror/disk.raw?{QUERY}", f"https://mirror/disk.raw?{LEFT_OUT}"),
    (f"https://mirror?{QUERY}", f"https://mirror?{LEFT_OUT}"),
    (f"https://mirror/disk.raw#{SECRET}", f"https://mirror/disk.raw?{LEFT_OUT}"),
    ("https://mirror/by@name/disk.raw", "https://mirror/by@name/disk.raw"),
    # A password with what must not be in one.
    (f"https://user:a/{SECRET}@mirror/disk.raw", f"https://{LEFT_OUT}"),
    (f"https://user:a?{SECRET}@mirror/disk.raw", f"https://{LEFT_OUT}"),
    (f"https://user:a#{SECRET}@mirror/disk.raw", f"https://{LEFT_OUT}"),
    (f"https://user:a b\n{SECRET}@mirror/disk.raw", f"https://{LEFT_OUT}@mirror/disk.raw"),
    (f"https:/user:{SECRET}@mirror/disk.raw", f"{LEFT_OUT}@mirror/disk.raw"),
    (f"user:{SECRET}@mirror/disk.raw?{SECRET}", f"{LEFT_OUT}@mirror/disk.raw?{LEFT_OUT}"),
    (f"disk.raw?{SECRET}", f"disk.raw?{LEFT_OUT}"),
    ("disk.raw", "disk.raw"),
    ("", ""),
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_of_a_url_only_what_anybody_may_know_is_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert shown_url(shown) == shown


def refusal(check: Callable[[str], object], url: str) -> str:
    """What it says of a URL that it refuses; nothing of one that it takes."""
    try:
        check(url)
    except InvalidInput as error:
        return f"{error.what} {error.why} {error.hint}"
    return ""


@pytest.mark.parametrize("url", [url for url, _ in URLS] + [f"http://[{SECRET}/", f"http://a:{SECRET}/", "ftp://a/"])
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str) -> None:
    for check, begin in ((check_url, "http"), (remotes.parse, "nbd"), (open_url, "http")):
        assert SECRET not in refusal(check, url.replace("https", begin))


def test_what_cannot_be_asked_for_is_refused() -> None:
    assert [
        url for url in (f"http://[{SECRET}/", f"http://a:{SECRET}/", "ftp://a/") if not refusal(check_url, url)
    ] == []


@dataclass
class Watched:
    """An appliance, the server that it fetches from, and all that it lets be seen."""

    box: Box
    site: Site
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture
    audit: list[Mapping[str, str]]

    def url(self, name: str, scheme: str = "http") -> str:
        """Of a file, with who logs in, and a signature."""
        return self.site.url.replace("http://", f"{scheme}://user:{SECRET}@") + f"{name}?{QUERY}"

    def add(self, url: str, *more: str) -> str:
        """Have it import a URL; what the command says."""
        words = ["--socket", str(self.box.paths.api_socket), "template", "add", "far", url, "--format", "raw", *more]
        with serving(self.box) as api:
            self.status = main(words)
            captured = self.capsys.readouterr()
            self.seen += captured.out + captured.err
            names = ("templates", "operations", "status", "doctor", "clones", "counters")
            answers = [api.get(f"/v1/{name}") for name in names]
            assert {answer.status_code for answer in answers} == {200}
            self.seen += "".join(answer.text for answer in answers)
        reader = self.box.service.events.join(lambda: None)
        while batch := reader.take():
            self.seen += "".join(event.model_dump_json() for event in batch)
        reader.leave()
        self.seen += json.dumps(self.audit)
        formatter = logging.Formatter()
        self.seen += "\n".join(
            formatter.format(record) for record in self.caplog.records if record.name.split(".")[0] not in NOISY
        )
        return captured.err + captured.out

    status: int = 0
    seen: str = ""


def by_a_process(url: str, manner: Manner = PLAIN) -> WebSource:
    """Fetched as by a process of its own, which tells its errors in a line."""
    output, why = io.BytesIO(), ""
    try:
        fetch.serve(fetch.order(url, manner), output)
    except HatcheryError as error:
        why = error.why
    return fetch.FetchedSource(url, lambda _: Done(output.getvalue(), why))


@pytest.fixture(params=[open_url, by_a_process], ids=["here", "by a process"])
def watched(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Watched]:
    caplog.set_level(logging.DEBUG)
    opener: Opener = request.param
    told: list[Mapping[str, str]] = []
    plain = audit.audited
    monkeypatch.setattr(audit, "audited", lambda app: plain(app, told.append))

    def opened(url: str) -> Source:
        return ResumingSource(url, opener, (0.0,))

    with serve(tmp_path, {"disk.raw": IMAGE}, encrypted=False) as site, box(tmp_path) as made:
        monkeypatch.setattr(made.service.imports, "_open_url", opened)
        made.service.events.unasked = partial(unasked, tell=told.append)
        yield Watched(made, site, capsys, caplog, told)


def test_an_import_shows_no_secret(watched: Watched) -> None:
    watched.add(watched.url("disk.raw"))
    shown = watched.site.url.replace("http://", f"http://{LEFT_OUT}@") + f"disk.raw?{LEFT_OUT}"
    assert watched.status == 0
    assert watched.site.logins == [LOGIN], "it is used all the same"
    assert watched.box.service.show_template("far").source == shown
    assert watched.seen.count(shown) > 2, "what may be shown tells where it came from"
    assert SECRET not in watched.seen
    written = b"".join(file.read_bytes() for file in watched.box.paths.state.iterdir() if file.is_file())
    assert b"disk.raw" in written
    assert SECRET.encode() not in written


class Shrinking(dict[str, bytes]):
    """Files of which each answer has a byte less."""

    def __getitem__(self, name: str) -> bytes:
        content = super().__getitem__(name)
        self[name] = content[:-1]
        return content


FAILING = {
    "it is not there": ("none.raw", "http", "the server answered 404 Not Found"),
    "its server does not answer": ("disk.raw", "https", "cannot be fetched"),
    "it breaks off": ("short.raw", "http", "broke off"),
    "another one is there by then": ("changing.raw", "http", "the server has another file"),
    "its server sends on to what is not there": ("on.raw", "http", "the server answered 404 Not Found"),
    "its server sends on to what is no URL": ("lost.raw", "http", "the server sends on to what is no URL"),
    "its checksum is another one": ("disk.raw", "http", "is not the one that was announced"),
}


@pytest.mark.parametrize("case", FAILING)
def test_an_import_that_fails_shows_no_secret(watched: Watched, case: str) -> None:
    name, scheme, words = FAILING[case]
    site = watched.site
    site.files |= {"short.raw": IMAGE, "changing.raw": IMAGE}
    site.breaks |= {"short.raw": [1000, 0], "changing.raw": [1000]}
    site.sends_on["on.raw"] = watched.url("gone.raw")
    site.sends_on["lost.raw"] = f"http://user:{SECRET}@mirror:{SECRET}/?{QUERY}"
    if case == "another one is there by then":
        site.files = Shrinking(site.files)
    more = ["--sha256", "0" * 64] if "checksum" in case else []
    said = watched.add(watched.url(name, scheme), *more)
    assert watched.status != 0
    assert words in " ".join(said.split())
    assert LEFT_OUT in watched.seen
    assert SECRET not in watched.seen
    assert watched.box.service.list_templates().templates == ()


def test_who_may_only_look_sees_no_secret_of_a_release_before(tmp_path: Path) -> None:
    """And an older release opens what is left: no step was taken."""
    path = tmp_path / "catalog.db"
    old = Catalog(path)
    ready(old)
    old.close()
    url = f"HTTPS://user:{SECRET}@mirror/disk.raw?{QUERY}"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE templates SET source = ?", (url,))
        db.execute(
            "INSERT INTO templates SELECT 99, 'b', 1, state, size, format, '/a@b?c#d', sha256, created, 0"
            " FROM templates"
        )
        before = db.execute("PRAGMA user_version").fetchone()
    db.close()
    for _ in range(2):
        new = Catalog(path)
        assert [template.source for template in new.templates()] == ["/a@b?c#d", shown_url(url)]
        new.close()
    assert SECRET.encode() not in path.read_bytes()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == before
    db.close()
