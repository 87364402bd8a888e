"""Updating an appliance from another machine: send the bundle, or say where it is to be fetched; put it on trial,
restart, wait for what comes of it.

It ends well only when the appliance runs the new version and found itself good; else it says what happened, so that
whoever updates many can stop at the first one.
"""

import contextlib
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.client import error_named
from appliance.errors import CannotTell, DeadlineExceeded, HatcheryError, InvalidInput, NotFound, NotReady, Unhealthy
from appliance.remote import OPTIONS_VARIABLE, command_line
from appliance.run import Completed, Runner
from appliance.wait import until

INCOMING = "/var/lib/hatchery-update/incoming"
"""Where a bundle lies on the appliance while it is applied."""

SIGNED = ("bundle.json", "SHA256SUMS", "SHA256SUMS.sig")
"""What of a bundle suffices to say what would be done."""

LOGIN = 60.0
SENDING = 7200.0
APPLYING = 4 * 3600.0
INTERVAL = 2.0
"""Seconds: for a login, for copying a bundle, for applying it, which may begin with fetching it, and between two looks
at a machine that restarts."""


@dataclass(frozen=True, slots=True)
class Url:
    """A bundle that the appliance fetches itself, from the URL of its folder.

    ``ca`` is a file on this machine: the authority of the server's certificate, in PEM.
    """

    url: str
    ca: Path | None = None
    plain_http: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """The bundle, by its folder on this machine or by a URL, further words for ``hatchery-update``, and seconds for
    restart and trial."""

    bundle: Path | Url
    words: tuple[str, ...] = ()
    deadline: float = 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or would be: ``steps`` in words, the version before and after."""

    changed: bool
    before: str
    after: str
    steps: tuple[Mapping[str, str], ...] = ()


class Appliance:
    """An appliance as it is reached through SSH: ``host`` is USER@NAME."""

    def __init__(self, host: str, runner: Runner) -> None:
        self._host = host
        self._runner = runner

    def status(self) -> dict[str, Any]:
        """``hatchery-update status``. Raises NotReady, CannotTell."""
        return self._answer(self._ssh(["hatchery-update", "status", "--json"]))

    def boot_id(self) -> str | None:
        """What tells one start from the next; None while it cannot be reached."""
        try:
            done = self._ssh(["cat", "/proc/sys/kernel/random/boot_id"])
        except HatcheryError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def restart(self) -> None:
        """Ask it to restart. The connection may break before there is an answer."""
        with contextlib.suppress(DeadlineExceeded):
            self._ssh(["systemctl", "reboot"])

    def send(self, folder: Path, names: Sequence[str]) -> None:
        """Put files of a folder into a new one on the appliance. Raises NotReady, with the words of ssh or tar."""
        self.clear()
        script = f"install -d -m 0700 {INCOMING} && tar -C {INCOMING} -x"
        remote = command_line(self._host, ["sh", "-c", script], terminal=False)
        with tempfile.TemporaryFile() as said:
            packer = self._runner.start(["tar", "-C", folder, "-c", *names], stdout=subprocess.PIPE, stderr=said)
            packed = packer.popen.stdout or subprocess.DEVNULL
            with packer, self._runner.start(_with_options(remote), stdin=packed, stderr=said) as receiver:
                if packer.popen.stdout:
                    packer.popen.stdout.close()  # tar ends when nobody reads any more
                failed = receiver.wait(SENDING) or packer.wait(LOGIN)
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
        if failed:
            raise NotReady(
                "the bundle could not be copied to the appliance",
                why=words or "ssh and tar gave no reason",
                hint="is there room below /var/lib, and can one log in?",
            )

    def clear(self) -> None:
        """Remove what was sent."""
        self._ssh(["rm", "-rf", INCOMING], timeout=300)

    def ask(self, verb: str, *words: str) -> dict[str, Any]:
        """``hatchery-update VERB WORDS``. Raises what the appliance refuses it with."""
        done = self._ssh(["hatchery-update", verb, "--json", *words], timeout=APPLYING)
        return self._answer(done)

    def _ssh(self, words: Sequence[str], *, timeout: float = LOGIN) -> Completed:
        argv = _with_options(command_line(self._host, words, terminal=False))
        return self._runner.run(argv, timeout=timeout, check=False)

    def _answer(self, done: Completed) -> dict[str, Any]:
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            raise NotReady(
                f"{self._host} gave no answer",
                why=(done.stderr or done.stdout).strip()[-300:] or f"status {done.returncode}",
                hint="does it run, can one log in, and is its image new enough to have hatchery-update?",
            ) from error
        if not isinstance(answer, dict):
            raise CannotTell(
                f"{self._host} gave an answer that is not understood",
                why=f"it is {type(answer).__name__} instead of an object",
                hint="does it run a release that this one does not know?",
            )
        if refused := answer.get("error"):
            raise error_named(refused["code"], refused["what"], refused["why"], refused["hint"])
        return answer


def _with_options(argv: Sequence[str]) -> list[str]:
    """No questions, and a dead connection is noticed: options for ssh, after those of the user."""
    extra = shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
    place = 2 + len(extra)
    options = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15")
    return [*argv[:place], *options, *argv[place:]]


def wanted_version(folder: Path) -> str:
    """The version of the bundle in a folder. Raises NotFound, InvalidInput; whether it is signed is the appliance's."""
    try:
        found = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["version"]
    except OSError as error:
        raise NotFound(f"{folder} is no update bundle", why=str(error), hint="make one: script/image bundle") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder} is no update bundle", why=f"its bundle.json is damaged: {error!r}") from error
    return str(found)


@contextmanager
def given(appliance: Appliance, bundle: Path | Url, names: Sequence[str] = ()) -> Iterator[list[str]]:
    """Words that name a bundle to ``hatchery-update``, while what they need lies on the appliance.

    Of a folder these are the files that are named. Raises NotReady.
    """
    words = [INCOMING] if isinstance(bundle, Path) else [bundle.url]
    if isinstance(bundle, Url) and bundle.plain_http:
        words.append("--plain-http")
    folder = bundle if isinstance(bundle, Path) else None
    if isinstance(bundle, Url) and bundle.ca is not None:
        if not bundle.ca.is_file():
            raise NotFound(f"{bundle.ca} is no file", hint="name that of the server's authority, in PEM")
        folder, names = bundle.ca.parent, [bundle.ca.name]
        words += ["--ca", f"{INCOMING}/{bundle.ca.name}"]
    if folder is None:
        yield words
        return
    appliance.send(folder, names)
    try:
        yield words
    finally:
        appliance.clear()


def offered_version(appliance: Appliance, bundle: Path | Url) -> str:
    """The version of a bundle; one at a URL is asked for by the appliance. Raises NotFound, InvalidInput, Refused."""
    if isinstance(bundle, Path):
        return wanted_version(bundle)
    with given(appliance, bundle) as words:
        return str(appliance.ask("show", *words)["version"])


def check(appliance: Appliance, wish: Wish) -> Outcome:
    """What ``update`` would do: the appliance's own plan, from the signed description alone."""
    version, before = offered_version(appliance, wish.bundle), appliance.status()
    if settled(before, version):
        return Outcome(False, before["running"], version)
    names, few = [], []
    if isinstance(wish.bundle, Path):
        names, few = [name for name in SIGNED if (wish.bundle / name).exists()], ["--no-contents"]
    with given(appliance, wish.bundle, names) as words:
        plan = appliance.ask("check", *words, *few, *wish.words)
    return Outcome(bool(plan["steps"]) or bool(plan["restart"]), before["running"], version, tuple(plan["steps"]))


def update(appliance: Appliance, wish: Wish) -> Outcome:
    """Bring an appliance to a bundle's version.

    Raises what it refuses, Unhealthy when it fell back, DeadlineExceeded when it does not come back in time.
    """
    version, before = offered_version(appliance, wish.bundle), appliance.status()
    if settled(before, version):
        return Outcome(False, before["running"], version)
    steps: tuple[Mapping[str, str], ...] = ()
    # On trial already, started or not: somebody else's update, or one that was broken off here.
    if before["running"] != version:
        names = sorted(file.name for file in wish.bundle.iterdir()) if isinstance(wish.bundle, Path) else []
        with given(appliance, wish.bundle, names) as words:
            steps = tuple(appliance.ask("apply", *words, *wish.words)["steps"])
        restart(appliance, wish.deadline)
    after = outcome(appliance, version, wish.deadline)
    return Outcome(True, before["running"], after["running"], steps)


def settled(status: Mapping[str, Any], version: str) -> bool:
    """Whether this version runs and was found good."""
    return bool(status["running"] == version and status["good"])


def restart(appliance: Appliance, deadline: float) -> None:
    """Restart it and wait until it is back, whatever runs then. Raises DeadlineExceeded."""
    before = appliance.boot_id()
    appliance.restart()

    def again() -> bool:
        found = appliance.boot_id()
        return found is not None and found != before

    until(again, "the appliance to come back after its restart", deadline=deadline, interval=INTERVAL)


def outcome(appliance: Appliance, version: str, deadline: float) -> dict[str, Any]:
    """Wait until the version was found good. Raises Unhealthy when it was given up, DeadlineExceeded."""

    def decided() -> dict[str, Any] | None:
        try:
            found = appliance.status()
        except (NotReady, DeadlineExceeded):
            return None  # it restarts: a try failed
        if settled(found, version) or (found["running"] != version and found["next"] != version):
            return found
        return None

    found = until(decided, f"version {version} to be found good", deadline=deadline, interval=INTERVAL)
    if found["running"] != version:
        raise Unhealthy(
            f"version {version} was given up",
            why=found["given_up"] or f"version {found['running']} runs, and nothing says why",
            hint="the appliance serves as before; make a better bundle, or say --again for another trial of this one",
        )
    return found
