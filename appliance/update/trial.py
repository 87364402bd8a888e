"""The trial of a new version: whether it is good, asked once after the start, when everything is up.

``hatchery-update-trial.service`` does it before systemd-boot's counting ends for this version. When it fails, the unit
restarts the machine, and when the tries are used up systemd-boot starts the other slot.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

from appliance import wait
from appliance.client import Client, connect
from appliance.config import Part, Paths
from appliance.errors import DeadlineExceeded, HatcheryError
from appliance.model import Health
from appliance.run import Runner
from appliance.schema import Status
from appliance.update import selftest

log = logging.getLogger(__name__)

LOGIN = "ssh.service"
"""The only way in."""

SERVICES = ("hatchery-store.service", "hatchery-retry.service", "hatcheryd.service")
PATIENCE = 300.0
"""Seconds that what is still starting is waited for."""


class Depth(Enum):
    """How much is asked."""

    LOOK = "nothing is changed for it"
    TRY = "a clone is made, written and read"


def ailments(runner: Runner, paths: Paths, depth: Depth, *, patience: float | None = None) -> tuple[str, ...]:
    """Why this appliance is not good; empty when it is.

    One that was not deployed yet is good when it can be logged in to. Never raises: a question that cannot be answered
    is an ailment.
    """
    patience = PATIENCE if patience is None else patience
    deployed = (paths.conf_d / Part.STORE.file_name).exists()
    units = (LOGIN, *(SERVICES if deployed else ()))
    found = list(_units(runner, units, patience))
    if deployed and not found:
        found += _guarded(lambda: _store(runner, paths, depth, patience))
    return tuple(found)


def _units(runner: Runner, units: tuple[str, ...], patience: float) -> Iterator[str]:
    seen: dict[str, str] = {}

    def settled() -> bool:
        seen.update(states(runner.run(["systemctl", "show", "--property=Id,ActiveState", *units]).stdout))
        return not any(seen.get(unit) in {"activating", "reloading", "inactive"} for unit in units)

    try:
        wait.until(settled, "the services", deadline=patience, interval=0.5)
    except DeadlineExceeded:
        log.warning("services are not up after %g s", patience)
    except HatcheryError as error:
        yield str(error)
        return
    for unit in units:
        if seen.get(unit) != "active":
            yield f"{unit} is {seen.get(unit, 'unknown')}"


def states(text: str) -> Mapping[str, str]:
    """``systemctl show`` with Id and ActiveState, of some units: the state by name."""
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in text.split("\n\n")]
    return {block["Id"]: block.get("ActiveState", "unknown") for block in blocks if "Id" in block}


def _store(runner: Runner, paths: Paths, depth: Depth, patience: float) -> tuple[str, ...]:
    with connect(socket=paths.api_socket) as client:
        seen: list[tuple[str, ...]] = []

        def good() -> bool:
            seen.append(judge(client.status()))
            return not seen[-1]

        try:
            # Right after a start an address may still be missing that a storage daemon listens on.
            wait.until(good, "the store to be well", deadline=patience, interval=2)
        except DeadlineExceeded:
            return seen[-1]
        return _guarded(lambda: _tested(client, runner)) if depth is Depth.TRY else ()


def judge(status: Status) -> tuple[str, ...]:
    """What in an appliance's status makes it no good: what has failed, or a pool that cannot be written to.

    A degraded store is good: that is a disk's fault, and an older version would not mend it.
    """
    failed = [problem.what for problem in status.problems if problem.severity is Health.FAILED]
    if status.health is Health.FAILED and not failed:
        failed = ["the store has failed"]
    pool = status.store.pool
    if pool is None:
        failed.append("the durable pool cannot be looked at")
    elif pool.mode != "rw":
        failed.append(f"the durable pool cannot be written to: it is {pool.mode}")
    return tuple(failed)


def _tested(client: Client, runner: Runner) -> tuple[str, ...]:
    selftest.run(client, runner)
    return ()


def _guarded(question: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return question()
    except HatcheryError as error:
        return (str(error),)
