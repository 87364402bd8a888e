"""The self-test: a clone is made, written and read over NBD, as a guest would, and removed again.

Where there is no template to make it of, a small one is imported for it, and removed afterwards.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.client import Client
from appliance.errors import CannotTell, CommandFailed, NoSpace, NotFound, Unhealthy
from appliance.model import KIB, MIB, ImageFormat, TemplateState
from appliance.run import Runner
from appliance.schema import LOCAL_CLIENT, CloneCreate, TemplateCreate, TemplateView, UploadSource

log = logging.getLogger(__name__)

CLONE = "hatchery-self-test"
TEMPLATE = "hatchery-self-test"
IMAGE = bytes([0x5A]) * MIB
"""What that template holds."""

IMPORTING = 120.0
"""Seconds that its import may take."""

LEASE = 3600.0
"""Seconds after which the clone goes in any case, if this program cannot remove it."""

PIECE = 64 * KIB
PATTERN = 0xA5


def run(client: Client, runner: Runner) -> bool:
    """Do it. False when it cannot be done and that is nobody's fault: there is no room for a clone.

    Raises Unhealthy when what was written does not come back, and what the service refuses. Nothing of it is left.
    """
    # What an earlier one may have left, broken off.
    _remove(client)
    _remove_template(client)
    try:
        with _template(client) as template:
            # The local client's socket is there without any configuration.
            [clone] = client.create_clones(
                CloneCreate(name=CLONE, template=template, client=LOCAL_CLIENT, expires_in=LEASE)
            )
            try:
                if clone.uri is None:
                    raise CannotTell(f"{clone.name} is not exported", why="the service gave no address for it")
                exchange(clone.uri, clone.size, runner)
            finally:
                _remove(client)
    except NoSpace as error:
        log.warning("no self-test: %s", error)
        return False
    log.info("self-test: a clone of %s was written and read over NBD", clone.template)
    return True


@contextmanager
def _template(client: Client) -> Iterator[str]:
    """The template to make the clone of: the smallest, or one that is there for this alone. Raises NoSpace."""
    ready = [one for one in client.templates() if one.state is TemplateState.READY and not one.retired]
    if ready:
        yield smallest(ready).ref
        return
    wanted = TemplateCreate(name=TEMPLATE, format=ImageFormat.RAW, source=UploadSource(), size=len(IMAGE))
    try:
        operation = client.import_template(wanted)
        client.upload(TEMPLATE, len(IMAGE), (IMAGE,), operation)
        client.finish(operation, deadline=IMPORTING)
        yield TEMPLATE
    finally:
        _remove_template(client)


def smallest(templates: list[TemplateView]) -> TemplateView:
    """The template that costs least."""
    return min(templates, key=lambda one: (one.size, one.ref))


def commands(size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What qemu-io does on a disk of ``size`` bytes, in two connections: write at both ends, and read that back.

    The second also reads what was never written, which is the template's.
    """
    last = (size - PIECE) // PIECE * PIECE
    places = sorted({0, max(last, 0)})
    length = min(size, PIECE)
    written = tuple(f"write -q -P {PATTERN:#x} {place} {length}" for place in places)
    read = tuple(f"read -q -P {PATTERN:#x} {place} {length}" for place in places)
    middle = (f"read -q {PIECE} {PIECE}",) if last >= 2 * PIECE else ()
    return ((*written, "flush"), (*read, *middle))


def exchange(uri: str, size: int, runner: Runner) -> None:
    """Write and read a disk of ``size`` bytes. Raises Unhealthy when it does not keep what is written to it."""
    for words in commands(size):
        argv = ["qemu-io", "-f", "raw", "-t", "none"]
        for word in words:
            argv += ["-c", word]
        try:
            runner.run([*argv, uri])
        except CommandFailed as error:
            raise Unhealthy("a clone does not keep what is written to it over NBD", why=error.why) from error


def _remove(client: Client) -> None:
    try:
        client.remove_clone(CLONE, force=True)
    except NotFound:
        return


def _remove_template(client: Client) -> None:
    for one in client.templates():
        if one.name == TEMPLATE and one.state is TemplateState.READY and not one.retired:
            client.remove_template(one.ref, when_unused=True)
