"""Debian 13 package sources made from the build host's own, and an apt that uses them without touching the host's.

The host may be Debian 12 or 13, and may list its sources in either of apt's two formats (sources.list(5)). The mirrors
that it names are the only ones that an image build ever asks.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagebuild.command import BuildError, capture, run

RELEASE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# A suite of the Debian archive proper: a code name or an alias, maybe with one of its pockets.
_CODENAMES = "buster|bullseye|bookworm|trixie|forky|duke|sid|oldoldstable|oldstable|stable|testing|unstable"
_MAIN_SUITE = re.compile(rf"({_CODENAMES})(-updates|-backports|-proposed-updates)?")
_SECURITY_SUITE = re.compile(rf"({_CODENAMES})(-security|/updates)")


@dataclass(frozen=True)
class Source:
    """One address of an apt source and what it is asked for."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


@dataclass(frozen=True)
class Mirrors:
    """Where Debian's archive and its security updates come from; `security` is None if the host has no such source."""

    archive: str
    security: str | None


def parse_one_line(text: str) -> list[Source]:
    """Parse a `sources.list` file: `deb [options] URI SUITE COMPONENT...`, one source a line."""
    sources = []
    for line in text.splitlines():
        words = re.sub(r"\[[^]]*\]", " ", line.split("#", 1)[0], count=1).split()
        if len(words) >= 4 and words[0] == "deb":
            sources.append(Source(words[1], (words[2],), tuple(words[3:])))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Parse a `.sources` file: stanzas of `Field: value`, continued by indented lines; disabled ones are left out."""
    sources: list[Source] = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in {" ", "\t"} and name:
                fields[name] += f" {line.strip()}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in {"no", "false", "off", "0"}:
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
        sources.extend(Source(uri, tuple(suites), tuple(components)) for uri in fields.get("uris", "").split())
    return sources


def host_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Read the build host's apt sources, in the order in which apt reads them."""
    sources: list[Source] = []
    files = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))]
    for file in files:
        if not file.is_file():
            continue
        if file.suffix == ".list":
            sources += parse_one_line(file.read_text())
        elif file.suffix == ".sources":
            sources += parse_deb822(file.read_text())
    return sources


def pick_mirrors(sources: Iterable[Source], environment: Mapping[str, str] = os.environ) -> Mirrors:
    """Pick the Debian mirrors out of a host's sources; third parties' sources are passed over.

    `HATCHERY_MIRROR` and `HATCHERY_SECURITY_MIRROR` override what the host says.

    Raises:
        BuildError: the host has no source of the Debian archive.
    """
    archive = environment.get("HATCHERY_MIRROR")
    security = environment.get("HATCHERY_SECURITY_MIRROR")
    for source in sources:
        if "main" not in source.components or not source.uri.startswith(("http://", "https://")):
            continue
        if archive is None and any(_MAIN_SUITE.fullmatch(suite) for suite in source.suites):
            archive = source.uri
        if security is None and any(_SECURITY_SUITE.fullmatch(suite) for suite in source.suites):
            security = source.uri
    if archive is None:
        raise BuildError(
            "no Debian mirror is known",
            "this machine's apt sources have no http(s) entry for the Debian archive",
            "set HATCHERY_MIRROR (and HATCHERY_SECURITY_MIRROR) to the address of a Debian mirror",
        )
    return Mirrors(archive, security)


def render_sources(mirrors: Mirrors) -> str:
    """Write the deb822 text that offers Debian 13 from these mirrors: release, updates and security."""
    stanzas = [(mirrors.archive, f"{RELEASE} {RELEASE}-updates")]
    if mirrors.security is not None:
        stanzas.append((mirrors.security, f"{RELEASE}-security"))
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
        for uri, suites in stanzas
    )


def host_proxy() -> str | None:
    """Return the http proxy that the host's apt uses, if any."""
    text = capture(["apt-config", "shell", "PROXY", "Acquire::http::Proxy"])
    match = re.fullmatch(r"PROXY='(.*)'\s*", text)
    return match[1] if match and match[1] not in {"", "DIRECT"} else None


class PrivateApt:
    """An apt with sources, lists and cache of its own below one directory, so that the host's apt is left as it is."""

    def __init__(self, home: Path, sources: str, proxy: str | None) -> None:
        """Keep everything below `home`; `sources` is deb822 text."""
        self._home = home
        self._sources = sources
        self._proxy = proxy
        self._env = {"APT_CONFIG": str(home / "apt.conf")}

    def download(self, package: str, into: Path) -> Path:
        """Fetch the newest version of a package without installing it, verified against Debian's keys.

        Raises:
            BuildError: the mirror cannot be reached, its signature is wrong, or it has no such package.
        """
        self._write_configuration()
        run(["apt-get", "-qq", "update"], env=self._env)
        for old in into.glob(f"{package}_*.deb"):
            old.unlink()
        run(["apt-get", "-qq", "download", package], env=self._env, cwd=into)
        found = sorted(into.glob(f"{package}_*.deb"))
        if len(found) != 1:
            raise BuildError(
                f"{package} was not downloaded", f"apt left {len(found)} files", "remove the cache and try again"
            )
        return found[0]

    def _write_configuration(self) -> None:
        for directory in ("lists/partial", "cache/archives/partial", "sources.d"):
            (self._home / directory).mkdir(parents=True, exist_ok=True)
        (self._home / "status").touch()
        (self._home / "sources.d" / "debian.sources").write_text(self._sources)
        settings = {
            "Dir::State": self._home,
            "Dir::State::status": self._home / "status",
            "Dir::State::lists": self._home / "lists",
            "Dir::Cache": self._home / "cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self._home / "sources.d",
            # The host's hooks (package kit, apt-listchanges) have no business here.
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Acquire::Languages": "none",
            # The cache is in a home directory, which apt's own user cannot enter.
            "APT::Sandbox::User": "root",
        }
        if self._proxy is not None:
            settings["Acquire::http::Proxy"] = self._proxy
        (self._home / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
