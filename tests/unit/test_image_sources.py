"""Where an image build gets its packages from: the host's own mirror, whatever format the host lists it in."""

from pathlib import Path

import pytest
from imagebuild.apt import Mirrors, host_sources, parse_deb822, parse_one_line, pick_mirrors, render_sources
from imagebuild.command import BuildError

DEB822 = """\
# a comment
Types: deb deb-src
# http://old.example/debian
URIs: http://mirror.example/debian
Suites: bookworm
  bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
"""

ONE_LINE = """\
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] https://mirror.example/debian trixie main # comment
# deb http://off.example/debian trixie main
deb-src http://src.example/debian trixie main
deb http://security.example/debian-security trixie-security main
"""


def test_deb822_stanzas_are_read_with_continued_fields() -> None:
    first, second = parse_deb822(DEB822)
    assert first.uri == "http://mirror.example/debian"
    assert first.suites == ("bookworm", "bookworm-updates")
    assert second.suites == ("bookworm-security",)


@pytest.mark.parametrize("line", ["Enabled: no", "Enabled: false"])
def test_disabled_stanza_is_left_out(line: str) -> None:
    assert parse_deb822(f"{line}\nTypes: deb\nURIs: http://x.example\nSuites: trixie\nComponents: main\n") == []


def test_source_only_stanza_is_left_out() -> None:
    assert parse_deb822("Types: deb-src\nURIs: http://x.example\nSuites: trixie\nComponents: main\n") == []


@pytest.mark.parametrize("text", [DEB822, ONE_LINE])
def test_both_formats_give_the_same_mirrors(text: str) -> None:
    mirrors = pick_mirrors(parse_deb822(text) + parse_one_line(text), environment={})
    assert mirrors.archive.removeprefix("https").removeprefix("http") == "://mirror.example/debian"
    assert mirrors.security == "http://security.example/debian-security"


def test_third_parties_are_passed_over() -> None:
    sources = parse_one_line(
        "deb https://node.example/node_20.x nodistro main\n"
        "deb https://cloud.example/apt cloud-sdk-bookworm main\n"
        "deb http://mirror.example/debian bookworm main\n"
    )
    assert pick_mirrors(sources, environment={}) == Mirrors("http://mirror.example/debian", None)


def test_a_host_without_debian_is_told_what_to_set() -> None:
    with pytest.raises(BuildError, match="HATCHERY_MIRROR"):
        pick_mirrors(parse_one_line("deb http://other.example/ubuntu noble main\n"), environment={})


def test_environment_overrides_the_host() -> None:
    environment = {"HATCHERY_MIRROR": "http://mine.example/debian"}
    mirrors = pick_mirrors(parse_deb822(DEB822), environment)
    assert mirrors == Mirrors("http://mine.example/debian", "http://security.example/debian-security")


def test_host_files_of_both_kinds_are_read_and_others_ignored(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (parts / "b.list").write_text("deb http://b.example/debian bookworm main\n")
    (parts / "c.sources").write_text("Types: deb\nURIs: http://c.example\nSuites: trixie\nComponents: main\n")
    (parts / "d.list.save").write_text("deb http://d.example/debian bookworm main\n")
    assert [source.uri for source in host_sources(tmp_path)] == [
        "http://a.example/debian",
        "http://b.example/debian",
        "http://c.example",
    ]


def test_written_sources_read_back_as_debian_13() -> None:
    text = render_sources(Mirrors("http://a.example/debian", "http://s.example/debian-security"))
    archive, security = parse_deb822(text)
    assert archive.suites == ("trixie", "trixie-updates")
    assert security.suites == ("trixie-security",)
    assert parse_deb822(render_sources(Mirrors("http://a.example/debian", None))) == [archive]
