"""What the storage daemon of one client could do to another one's clones if somebody took it over."""

import os
from pathlib import Path

from appliance.client import connect
from appliance.config import Paths
from appliance.host.qmp import Qmp, QmpError
from appliance.host.storage_daemon import Files
from tests.kernel.inside.service import daemon_pid


def identity(client: str) -> list[int]:
    """The user, the group and the further groups of a client's daemon; the kernel's word."""
    lines = Path(f"/proc/{daemon_pid(client)}/status").read_text(encoding="utf-8").splitlines()
    said = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return [int(word) for key in ("Uid", "Gid", "Groups") for word in said[key].split()]


def device(clone: str) -> str:
    """A clone's device."""
    with connect() as api:
        return api.clone(clone).device


def opened_by_daemon(client: str, path: str, driver: str = "host_device") -> str:
    """Have a client's own running daemon open something; what it says, or nothing when it did."""
    with Qmp(Files(Paths().nbd(client)).qmp) as qmp:
        try:
            qmp.execute("blockdev-add", {"driver": driver, "node-name": "loot", "filename": path})
        except QmpError as error:
            return error.text
        qmp.execute("blockdev-del", {"node-name": "loot"})
    return ""


def reached_as(client: str, *paths: str) -> dict[str, str]:
    """What becomes of a process that is the user of a client's daemon when it opens files: the error's name."""
    user = identity(client)[0]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.write(writer, "\n".join(_outcome(path) for path in paths).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read().split("\n")
    os.waitpid(child, 0)
    return dict(zip(paths, said, strict=True))


def _outcome(path: str) -> str:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return type(error).__name__
    return "opened"
