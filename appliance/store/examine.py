"""Rules of the data path that are looked at when somebody asks, for it costs a question for each clone.

The others are looked at all the time: see ``health``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.errors import CannotTell, HatcheryError, NotFound, Refused
from appliance.host import block, kernel, md, multipath
from appliance.host.block import Device
from appliance.host.dm import Entry
from appliance.model import Health, Problem
from appliance.store import names, nvme
from appliance.store.machine import Machine

UDEV = Path("/run/udev/data")
"""udev's database: a file for each device (systemd's ``device_get_path_id`` and ``sd_device_get_device_id``)."""

PROBED = ("E:ID_FS_", "E:ID_PART_", "E:LVM_", "E:MD_")
"""What udev's rules for file systems, partitions, LVM and md leave of a device that they have looked into."""


def rules(machine: Machine, udev: Path = UDEV) -> Mapping[int, tuple[Problem, ...] | None]:
    """What is wrong, by the rule; None when it could not be looked at. Never raises."""
    looks: Mapping[int, Callable[[], tuple[Problem, ...]]] = {
        5: lambda: _probed(machine.dm.list(), udev),
        7: lambda: _retried(machine),
        8: lambda: _strangers(machine),
        12: _kernel,
    }
    return {rule: _or_none(look) for rule, look in looks.items()}


def _or_none(look: Callable[[], tuple[Problem, ...]]) -> tuple[Problem, ...] | None:
    try:
        return look()
    except HatcheryError:
        return None


def _kernel() -> tuple[Problem, ...]:
    try:
        kernel.require()
    except Refused as error:
        return (Problem(Health.FAILED, f"{error.what}: {error.why}", error.hint, 12),)
    return ()


def _strangers(machine: Machine) -> tuple[Problem, ...]:
    """The drives of the settings that hold nothing of ours: whatever is on them is let alone.

    Those that are not there or cannot be read are told as such already.
    """
    config = machine.config
    disks = config.backend.disks if config.backend is not None else ()
    drives = config.nvme.devices if config.nvme is not None else ()
    looks = [(path, _is_member) for path in disks] + [(path, nvme.is_ours) for path in drives]
    return tuple(stranger(path) for path, ours in looks if _known_not(path, ours))


def _known_not(path: str, ours: Callable[[Device], bool]) -> bool:
    try:
        device = block.find(path)
        return device is not None and not ours(device)
    except HatcheryError:
        return False


def _is_member(disk: Device) -> bool:
    found = md.superblock(disk)
    return found is not None and found.name == names.array(names.BACKEND)


def stranger(path: str) -> Problem:
    """What is said of a drive that was named and is not ours."""
    what = f"{path} is named in the settings and is no part of the store: nothing on it is touched"
    hint = "run the roles to take it in; what others left on it is wiped by its serial number alone"
    return Problem(Health.DEGRADED, what, hint, 8)


def _retried(machine: Machine) -> tuple[Problem, ...]:
    """Whether each device that a durable clone is exported by holds requests while its path has failed."""
    found = []
    for entry in machine.dm.list():
        layer = names.parse_layer(entry.name)
        if layer is None or layer[0] is not names.Layer.CLONE:
            continue
        try:
            held = multipath.is_queueing(machine.dm, entry.name)
        except NotFound:
            continue  # it was detached meanwhile
        if not held:
            # hatchery-retry gives an error to a guest now and then, and queues again at once.
            hint = "see `systemctl status hatchery-retry`; detach and attach the clone"
            found.append(Problem(Health.DEGRADED, f"{entry.name} does not hold requests that fail", hint, 7))
    return tuple(found)


def _probed(devices: tuple[Entry, ...], udev: Path) -> tuple[Problem, ...]:
    """Whether a rule of udev has looked into a volume. Raises CannotTell when the database cannot be read."""
    found = []
    for entry in devices:
        if names.parse_layer(entry.name) is None:
            continue
        try:
            text = (udev / f"b{entry.number}").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue  # no udev here, or none of its rules concerned itself with the device
        except OSError as error:
            raise CannotTell("udev's database cannot be read", why=str(error)) from error
        if any(line.startswith(PROBED) for line in text.splitlines()):
            hint = "is 55-hatchery-dm.rules in place, and not overridden by a rule below /etc/udev/rules.d?"
            found.append(Problem(Health.FAILED, f"a rule of udev looked into {entry.name}", hint, 5))
    return tuple(found)
