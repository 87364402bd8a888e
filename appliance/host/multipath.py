"""dm-multipath's status and messages, for devices with one path.

Source: ``multipath_status`` and ``multipath_message`` in ``drivers/md/dm-mpath.c`` of Linux 6.12. A status line:

    2 QUEUING INITS 0 GROUPS CURRENT  GROUP-STATE 0 PATHS 1  MAJOR:MINOR A|F FAILURES [selector's] ...
"""

from dataclasses import dataclass
from pathlib import Path

from appliance.errors import CannotTell
from appliance.host.dm import DeviceNumber, Dm, Target

KIND = "multipath"
MODULE = "dm_multipath"


@dataclass(frozen=True, slots=True)
class PathStatus:
    """The path: its device, whether requests go down it, and how often it failed since the table was loaded."""

    device: DeviceNumber
    active: bool
    failures: int


def parse_status(params: str) -> PathStatus:
    """Read the status of a multipath device with exactly one path. Raises CannotTell."""
    words = params.split()
    try:
        at = 1 + int(words[0])  # features
        at += 1 + int(words[at])  # hardware handler
        if int(words[at]) != 1:
            raise CannotTell("a retry layer has more than one group of paths", why=params)
        at += 3  # groups, current group, the group's state
        at += 1 + int(words[at])  # path selector
        paths, extra = int(words[at]), int(words[at + 1])
        device, state, failures = words[at + 2 : at + 5]
        major, _, minor = device.partition(":")
        status = PathStatus(DeviceNumber(int(major), int(minor)), state == "A", int(failures))
    except (IndexError, ValueError) as error:
        raise CannotTell("cannot read the status of a retry layer", why=params) from error
    if paths != 1 or state not in ("A", "F") or len(words) < at + 5 + extra:
        raise CannotTell("cannot read the status of a retry layer", why=params)
    return status


def queues(params: str) -> bool:
    """Whether a table line says that requests are held while no path works."""
    words = params.split()
    count = int(words[0]) if words and words[0].isdecimal() else 0
    return "queue_if_no_path" in words[1 : 1 + count]


def path_status(dm: Dm, name: str) -> PathStatus:
    """How the path of a retry layer is. Raises NotFound when the device is gone, CannotTell."""
    return parse_status(_only(dm.status(name), name).params)


def is_queueing(dm: Dm, name: str) -> bool:
    """Whether the device holds requests while its path has failed. Raises NotFound."""
    return queues(_only(dm.table(name), name).params)


def reinstate(dm: Dm, name: str, device: DeviceNumber) -> None:
    """Use the path again: held requests are sent down it. Raises NotFound when the device is gone."""
    dm.message(name, f"reinstate_path {device}")


def hold(dm: Dm, name: str) -> None:
    """Hold requests while the path has failed."""
    dm.message(name, "queue_if_no_path")


def let_go(dm: Dm, name: str) -> None:
    """Answer requests with their error while the path has failed; those that are held too."""
    dm.message(name, "fail_if_no_path")


def _only(targets: tuple[Target, ...], name: str) -> Target:
    if len(targets) != 1 or targets[0].kind != KIND:
        raise CannotTell(f"{name} is not a retry layer", why="; ".join(map(str, targets)) or "it has no table")
    return targets[0]


def retry_table(device: Path, length: int) -> Target:
    """The retry layer over ``device``, of ``length`` sectors: dm-multipath with one path, in bio mode (rule 7)."""
    params = f"3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 {device} 1"
    return Target(0, length, KIND, params)
