"""Fetching a bundle from a real server: whole, gone on with, refused; and what is left of it afterwards."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import progress
from appliance.errors import HatcheryError, InvalidInput, NoSpace, NotFound, NotReady, Refused
from appliance.images.http_source import UrlSource
from appliance.progress import QUIET, Bar
from appliance.update import bundle, offer, spool
from appliance.update.bundle import ABOUT, SIGNATURE, SUMS, Bundle
from appliance.update.spool import Patience, Place, Spool
from tests.https_server import Site, serve
from tests.unit.screen import Screen, screen

__all__ = ["screen"]

IDENTITY = "ab" * 16
USR = f"hatchery_0.1.1.usr_{IDENTITY}.raw.gz"
UKI = "hatchery_0.1.1.efi"
CONTENTS = {
    USR: bytes(range(256)) * 1024,
    f"hatchery_0.1.1.usr-verity_{IDENTITY}.raw.gz": b"hashes",
    UKI: b"kernel",
    "hatchery_0.1.1.manifest": b"{}",
}
WORDS = {"version": "0.1.1", "catalog": 3, "usr_size": 1 << 20, "verity_size": 4096, "uki_size": len(CONTENTS[UKI])}
AT_ONCE = Patience(tries=3, pause=0, deadline=30)


def files() -> dict[str, bytes]:
    """A bundle, but for its signature, which is not looked at here."""
    found = {**CONTENTS, ABOUT: json.dumps(WORDS).encode()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(found.items()))
    return {**found, SUMS: sums.encode(), SIGNATURE: b"a signature\n"}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve(tmp_path, files()) as served:
        yield served


def where(site: Site) -> Place:
    return offer.place(site.url, UrlSource, authority=site.authority)


class Fetching:
    """A spool that is given what ``update.offer`` gives it."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.spool = Spool(folder / "spool")

    def __call__(self, patience: Patience = AT_ONCE, bar: Bar = QUIET) -> None:
        place = where(self.site)
        self.spool.begin(spool.describe(place))
        sums = bundle.parse_sums((self.spool.folder / SUMS).read_text())
        wanted = spool.sizes(place, spool.limits(made(self.spool.folder), sums))
        self.spool.check_room(wanted)
        self.spool.fetch(place, wanted, sums, patience, bar)

    def there(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.spool.folder.iterdir()}


@pytest.fixture
def fetching(site: Site, tmp_path: Path) -> Fetching:
    return Fetching(site, tmp_path)


def made(folder: Path) -> Bundle:
    return bundle.parse_about(folder, json.loads((folder / ABOUT).read_text()))


def test_a_bundle_comes_whole_and_is_asked_for_once(fetching: Fetching) -> None:
    fetching()
    assert fetching.there() == files()
    got = [line for line in fetching.site.asked if line.startswith("GET")]
    assert got[:3] == [f"GET {name}" for name in (SUMS, SIGNATURE, ABOUT)]
    assert sorted(got) == sorted(f"GET {name}" for name in files())


@pytest.mark.parametrize("resumes", [True, False])
def test_what_broke_off_is_gone_on_with(fetching: Fetching, resumes: bool) -> None:
    fetching.site.resumes = resumes
    size = len(CONTENTS[USR])
    fetching.site.breaks[USR] = [1000, size // 2, size]
    fetching()
    assert fetching.there() == files()
    begins = ["", " 1000", f" {1000 + size // 2}"] if resumes else ["", " 1000", f" {size // 2}"]
    assert [line for line in fetching.site.asked if line.startswith(f"GET {USR}")] == [
        f"GET {USR}{begin}" for begin in begins
    ]


def test_a_file_that_never_comes_whole_is_given_up_and_gone_on_with_later(fetching: Fetching) -> None:
    fetching.site.breaks[USR] = [1000, 0]
    with pytest.raises(NotReady, match=rf"{USR} broke off: 1000 of \d+ bytes came"):
        fetching()
    # The first connection brought something, and then as many did not as are allowed.
    assert sum(line.startswith(f"GET {USR}") for line in fetching.site.asked) == 1 + AT_ONCE.tries
    assert fetching.there()[f"{USR}.part"] == CONTENTS[USR][:1000]
    fetching.site.breaks.clear()
    fetching.site.asked.clear()
    fetching()
    assert fetching.there() == files()
    assert f"GET {USR} 1000" in fetching.site.asked


def test_fetching_ends_at_its_deadline_though_bytes_come(fetching: Fetching) -> None:
    fetching.site.breaks[USR] = [1000]
    with pytest.raises(NotReady, match="broke off"):
        fetching(replace(AT_ONCE, deadline=0))
    assert fetching.site.asked.count(f"GET {USR}") == 1


def test_what_is_left_of_another_bundle_goes(fetching: Fetching) -> None:
    fetching.site.breaks[USR] = [1000, 0]
    with pytest.raises(NotReady):
        fetching()
    fetching.site.files = {**files(), SUMS: files()[SUMS] + b"%s  other\n" % (b"0" * 64)}
    fetching.spool.begin(spool.describe(where(fetching.site)))
    assert fetching.there().keys() == {SUMS, SIGNATURE, ABOUT}


def test_a_bar_says_how_far_all_of_it_is(fetching: Fetching, screen: Screen) -> None:
    whole = sum(map(len, CONTENTS.values()))
    with progress.bar("fetching") as bar:
        fetching(bar=bar)
    screen.seen("fetching hatchery_0.1.1", f"{whole / 1024:.1f} KiB of {whole / 1024:.1f} KiB")


def test_what_is_no_file_of_the_bundle_goes(fetching: Fetching) -> None:
    fetching.spool.begin(spool.describe(where(fetching.site)))
    (fetching.spool.folder / "hatchery_9.efi").touch()
    fetching()
    assert fetching.there() == files()


def test_a_part_that_is_longer_than_the_file_is_begun_anew(fetching: Fetching) -> None:
    fetching.spool.begin(spool.describe(where(fetching.site)))
    (fetching.spool.folder / f"{UKI}.part").write_bytes(b"much longer than the kernel")
    fetching()
    assert fetching.there() == files()


def test_another_file_of_the_same_name_and_size_is_refused(fetching: Fetching) -> None:
    fetching.site.files[UKI] = b"KERNEL"
    with pytest.raises(InvalidInput, match=rf"{UKI} is not what was signed"):
        fetching()
    assert UKI not in fetching.there()


def test_a_file_that_is_larger_than_was_signed_for_is_not_fetched(fetching: Fetching) -> None:
    for name, size in ((UKI, 7), (USR, (1 << 20) + (1 << 10) + 1025), ("hatchery_0.1.1.manifest", (16 << 20) + 1)):
        fetching.site.files = {**files(), name: bytes(size)}
        with pytest.raises(InvalidInput, match="is not what was signed"):
            fetching()
        assert fetching.there().keys() == {SUMS, SIGNATURE, ABOUT}


@pytest.mark.parametrize("name", [SUMS, SIGNATURE, ABOUT])
def test_a_description_of_any_length_is_not_read(fetching: Fetching, name: str) -> None:
    fetching.site.files[name] = bytes(spool.DESCRIPTION_MAX + 1)
    with pytest.raises(InvalidInput, match="too large"):
        fetching()


def test_a_server_that_does_not_say_how_large_a_file_is_is_refused(fetching: Fetching) -> None:
    fetching.site.tells_size = False
    with pytest.raises(InvalidInput, match="does not say how large"):
        fetching()


def test_a_file_that_shrinks_while_it_is_fetched_is_refused(fetching: Fetching) -> None:
    place = where(fetching.site)
    fetching.spool.begin(spool.describe(place))
    with pytest.raises(InvalidInput, match="a moment ago"):
        fetching.spool.fetch(place, {UKI: 7}, {UKI: "0" * 64}, AT_ONCE)


def test_what_does_not_fit_is_not_begun(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RESERVE", 1 << 62)
    with pytest.raises(NoSpace, match="cannot be fetched"):
        fetching()
    assert f"GET {USR}" not in fetching.site.asked


def test_what_is_here_already_needs_no_room(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    fetching()
    monkeypatch.setattr(spool, "RESERVE", 1 << 62)
    sizes = {name: len(content) for name, content in CONTENTS.items()}
    fetching.spool.check_room(sizes)
    with pytest.raises(NoSpace):
        fetching.spool.check_room({**sizes, UKI: 1 << 20})


def refused(url: str, error: type[HatcheryError], words: str, authority: str = "", *, plain_http: bool = False) -> None:
    with pytest.raises(error, match=words):
        spool.describe(offer.place(url, UrlSource, authority=authority, plain_http=plain_http))


def test_a_certificate_that_does_not_count_is_refused(site: Site, tmp_path: Path) -> None:
    refused(site.url, Refused, "certificate does not count")
    (tmp_path / "other").mkdir()
    with serve(tmp_path / "other", {}) as other:
        refused(site.url, Refused, "certificate does not count", other.authority)
    with serve(tmp_path / "other", {}, certified="192.0.2.1") as other:
        refused(other.url, Refused, "certificate does not count.*mismatch", other.authority)
    assert site.asked == other.asked == []


def test_an_authority_that_is_none_is_refused(site: Site) -> None:
    refused(site.url, InvalidInput, "authority .* cannot be read", "no certificate")


def test_no_bundle_there_is_said_with_what_to_give_instead(site: Site) -> None:
    del site.files[SIGNATURE]
    refused(site.url, NotFound, r"no update bundle.*SHA256SUMS.sig.*404.*script/image bundle", site.authority)


def test_http_is_taken_only_when_it_is_said(tmp_path: Path) -> None:
    with serve(tmp_path, files(), encrypted=False) as site:
        refused(site.url, Refused, "--plain-http")
        assert site.asked == []
        place = offer.place(site.url, UrlSource, plain_http=True)
        assert spool.describe(place)[SUMS] == files()[SUMS]


def test_being_sent_on_to_http_is_refused(site: Site, tmp_path: Path) -> None:
    with serve(tmp_path, files(), encrypted=False) as plain:
        site.sends_on[SUMS] = f"{plain.url}{SUMS}"
        refused(site.url, Refused, "not encrypted", site.authority)
        assert plain.asked == []
        place = offer.place(site.url, UrlSource, authority=site.authority, plain_http=True)
        assert spool.describe(place)[SUMS] == files()[SUMS]


@pytest.mark.parametrize("tail", ["?token=x", "#x"])
def test_what_would_be_seen_in_logs_is_no_part_of_the_url(tail: str) -> None:
    refused(f"https://updates.test/bundle{tail}", InvalidInput, "would be seen in logs")
    refused("https://me:secret@updates.test/bundle", InvalidInput, "would be seen in logs")


def test_a_folder_is_told_from_a_url() -> None:
    assert [offer.is_url(text) for text in ("https://a/b", "ftp://a", "https:/a", "a/b", "/a://b")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert offer.place("https://a/b", UrlSource).url == offer.place("https://a/b/", UrlSource).url == "https://a/b/"
