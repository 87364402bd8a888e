"""Obtaining mkosi and running it.

Debian 13 packages the mkosi that the configuration is written for; Debian 12's is too old, and it is not on PyPI. It is
pure Python, so the package is fetched from Debian 13 and unpacked into the cache, on every host alike.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebuild.apt import KEYRING, RELEASE, PrivateApt, host_proxy, host_sources, pick_mirrors, render_sources
from imagebuild.command import BuildError, need_tools, run, say
from imagebuild.inputs import digest

HOST_TOOLS: Mapping[str, str] = {"apt-get": "apt", "dpkg-deb": "dpkg", "gpgv": "gpgv"}

TOOLS = Path(__file__).with_name("tools.conf")

_PACKAGES = "usr/lib/python3/dist-packages"
_MKOSI = (sys.executable, "-m", "mkosi")


class Mkosi:
    """mkosi, its tools tree and its caches, below one cache directory."""

    def __init__(self, cache: Path) -> None:
        """Nothing is done before `prepare`."""
        self._home = cache / "mkosi"
        self._program = self._home / "program"
        self._sandbox = self._home / "sandbox"
        self._tools = self._home / f"tools-{digest(TOOLS.parent, [TOOLS.name])}"
        self._proxy: str | None = None

    @property
    def tools_tree(self) -> Path:
        """The Debian 13 tree with the programs that mkosi uses; there after `prepare`."""
        return self._tools

    def prepare(self) -> None:
        """Have mkosi, its package sources and its tools tree ready; quick when they are.

        Raises:
            BuildError: something that the host must have is missing, or a download or the build of the tools failed.
        """
        need_tools(HOST_TOOLS)
        if os.geteuid() != 0:
            need_tools({"newuidmap": "uidmap"})
        if not KEYRING.exists():
            raise BuildError(
                "Debian's archive keys are missing",
                f"there is no {KEYRING}",
                "apt-get install debian-archive-keyring",
            )
        sources = render_sources(pick_mirrors(host_sources()))
        self._proxy = host_proxy()
        sandbox_list = self._sandbox / "etc/apt/sources.list.d/mkosi.sources"
        sandbox_list.parent.mkdir(parents=True, exist_ok=True)
        # Without this file mkosi writes its own list, with Debian's debug archive in it, which few mirrors carry.
        sandbox_list.write_text(sources)
        if not self._program.exists():
            self._fetch(sources)
        if not self._tools.exists():
            self._build_tools()

    def build(self, name: str, arguments: Sequence[str | Path], *, output: Path) -> None:
        """Build the image `name` into the directory `output` with mkosi's `arguments`.

        Raises:
            BuildError: mkosi failed.
        """
        self._run(name, [*arguments, "--tools-tree", self._tools, "--output-directory", output, "--force", "build"])

    def _run(self, name: str, arguments: Sequence[str | Path]) -> None:
        # mkosi's incremental cache is keyed by distribution alone, so images that share a directory evict each other.
        places = {
            "--cache-directory": self._home / "incremental" / name,
            "--package-cache-directory": self._home / "packages",
            "--workspace-directory": self._home / "work",
        }
        common: list[str | Path] = []
        for option, directory in places.items():
            directory.mkdir(parents=True, exist_ok=True)
            common += [option, directory]
        if self._proxy is not None:
            common += ["--proxy-url", self._proxy]
        run([*_MKOSI, *common, "--sandbox-tree", self._sandbox, *arguments], env=self._environment)

    @property
    def _environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(self._program / _PACKAGES), "PYTHONDONTWRITEBYTECODE": "1"}

    def genkey(self, folder: Path, *, name: str, days: int) -> None:
        """Make a key for Secure Boot and its certificate in an empty folder.

        Raises:
            BuildError: mkosi failed.
        """
        words = ["--genkey-common-name", name, "--genkey-valid-days", str(days), "genkey"]
        run([*_MKOSI, *words], env=self._environment, cwd=folder)

    def tool(self, argv: Sequence[str | Path], *, work: Path, files: Mapping[str, Path]) -> None:
        """Run a program of the tools tree, in the folder `work`, and with `files` to read in `/given`, by name.

        Raises:
            BuildError: the program failed.
        """
        words: list[str | Path] = ["--ro-bind", self._tools / "usr", "/usr"]
        for link in ("bin", "lib", "lib64", "sbin"):
            words += ["--symlink", f"usr/{link}", f"/{link}"]
        words += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]  # noqa: S108 - of its own
        words += ["--bind", work, "/here", "--chdir", "/here"]
        for name, file in files.items():
            words += ["--ro-bind", file, f"/given/{name}"]
        run([sys.executable, self._program / _PACKAGES / "mkosi/sandbox.py", *words, "--", *argv])

    def _fetch(self, sources: str) -> None:
        say("fetching mkosi from Debian 13")
        self._home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._home) as name:
            scratch = Path(name)
            package = PrivateApt(self._home / "apt", sources, self._proxy).download("mkosi", scratch)
            run(["dpkg-deb", "-x", package, scratch / "program"])
            (scratch / "program").rename(self._program)

    def _build_tools(self) -> None:
        say("building mkosi's tools tree (once, about a minute)")
        with tempfile.TemporaryDirectory(dir=self._home) as name:
            self._run(
                "tools",
                [
                    *("--directory", "", "--distribution", "debian", "--release", RELEASE),
                    *("--include", TOOLS, "--output", "tools", "--output-directory", name),
                    "build",
                ],
            )
            Path(name, "tools").rename(self._tools)
        for old in self._home.glob("tools*"):
            if old != self._tools:
                shutil.rmtree(old, ignore_errors=True)

    def forget(self, name: str) -> None:
        """Throw an image's incremental cache away, so that its next build asks the mirror for newer packages."""
        shutil.rmtree(self._home / "incremental" / name, ignore_errors=True)
