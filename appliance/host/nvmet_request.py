"""What the unit that changes the kernel's NVMe target is asked, and what it answers: files in a folder of root's.

The target's sockets belong to whoever links the first subsystem to a port: they get its control group, with its limits
to the network, and its rights. So hatcheryd changes nothing there itself. It writes down what is wanted, all of it, and
starts a unit that makes it so and ends; what it did not reach, the next request does.
"""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from appliance.errors import Unhealthy
from appliance.host import nvmet
from appliance.host.files import replace
from appliance.host.nvmet import Found, Host, Ours, Port, Subsystem, Wanted
from appliance.host.units import run_to_its_end
from appliance.run import Runner

log = logging.getLogger(__name__)

UNIT = "hatchery-nvme.service"

UNIT_SECONDS = 60.0
"""The unit's own limit is shorter."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the target should offer. Of the rest, subsystems named in ``gently`` stay if they are in use."""

    wanted: Wanted
    gently: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    ``missing`` says why the kernel has no target, and is empty where it has; ``problems`` are what could not be done,
    by what they are about; ``in_use`` those of ``gently`` that stayed, and who is connected to their port.
    """

    missing: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)
    in_use: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a request."""

    folder: Path

    @property
    def request(self) -> Path:
        """What is wanted. It has keys in it."""
        return self.folder / "wanted.json"

    @property
    def outcome(self) -> Path:
        """What came of it."""
        return self.folder / "outcome.json"

    @property
    def ours(self) -> Path:
        """The names of what was made since the machine started."""
        return self.folder / "ours.json"


class Target(Protocol):
    """What the service needs of the kernel's target."""

    def apply(self, wanted: Wanted, gently: Collection[str] = ()) -> Outcome:
        """Make the target offer what is wanted, and nothing else of ours. Raises Unhealthy, DeadlineExceeded."""

    def look(self) -> Found:
        """What it has. Raises Unhealthy."""


class UnitTarget:
    """See Target. By the unit."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self._runner = runner
        self._files = Files(folder)

    def apply(self, wanted: Wanted, gently: Collection[str] = ()) -> Outcome:
        """See Target."""
        self._files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files.outcome.unlink(missing_ok=True)
        replace(self._files.request, render(Request(wanted, frozenset(gently))), 0o600)
        try:
            run_to_its_end(self._runner, UNIT, timeout=UNIT_SECONDS)
        finally:
            self._files.request.unlink(missing_ok=True)
        return read_outcome(self._files)

    def look(self) -> Found:
        """See Target."""
        return nvmet.look()


class NoTarget:
    """See Target. Where no service manager starts units there is none."""

    def apply(self, wanted: Wanted, gently: Collection[str] = ()) -> Outcome:  # noqa: ARG002  nothing is made of it
        """See Target."""
        return Outcome(missing=f"{UNIT} needs systemd")

    def look(self) -> Found:
        """See Target."""
        return Found({}, {}, {})


# --- the files


def render(request: Request) -> str:
    """A request as text."""
    return json.dumps({"wanted": asdict(request.wanted), "gently": sorted(request.gently)})


def parse(text: str) -> Request:
    """Read what ``render`` wrote. Raises Unhealthy when it is something else."""
    try:
        data = json.loads(text)
        wanted = data["wanted"]
        return Request(
            Wanted(
                hosts=tuple(Host(**each) for each in wanted["hosts"]),
                ports=tuple(Port(**each) for each in wanted["ports"]),
                subsystems=tuple(Subsystem(**each) for each in wanted["subsystems"]),
            ),
            frozenset(data["gently"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged("what is wanted of the NVMe target", error) from error


def write_outcome(files: Files, outcome: Outcome) -> None:
    """Leave word of what came of a request."""
    replace(files.outcome, json.dumps(asdict(outcome)), 0o600)


def read_outcome(files: Files) -> Outcome:
    """What came of the last request. Raises Unhealthy."""
    try:
        data = json.loads(files.outcome.read_text(encoding="utf-8"))
        in_use = {nqn: tuple(peers) for nqn, peers in data["in_use"].items()}
        return Outcome(data["missing"], data["problems"], in_use)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(f"what {UNIT} left", error) from error


def read_ours(files: Files) -> Ours:
    """What was made since the machine started; nothing when nothing was. Raises Unhealthy."""
    try:
        data = json.loads(files.ours.read_text(encoding="utf-8"))
        return Ours(frozenset(data["hosts"]), frozenset(data["ports"]), frozenset(data["subsystems"]))
    except FileNotFoundError:
        return Ours()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged("the list of what was made", error) from error


def write_ours(files: Files, ours: Ours) -> None:
    """Note what was made, or is about to be."""
    data = {"hosts": sorted(ours.hosts), "ports": sorted(ours.ports), "subsystems": sorted(ours.subsystems)}
    replace(files.ours, json.dumps(data), 0o600)


def clear(files: Files, target: nvmet.Target) -> Mapping[str, str]:
    """Take away all that was made; what could not go, and why. Raises Unhealthy."""
    found, ours = nvmet.look(target.root), read_ours(files)
    problems = nvmet.carry_out(nvmet.plan(Wanted(), found, ours), target, lambda step: log.info("%s", step))
    if not problems:
        files.ours.unlink(missing_ok=True)
    return problems


def _damaged(what: str, error: Exception) -> Unhealthy:
    return Unhealthy(f"{what} cannot be read", why=repr(error), hint=f"see `journalctl -u {UNIT}`")
