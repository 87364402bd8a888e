"""Users of the storage daemons: a number for each, of its own, from its first start until the machine goes down.

A client's name would not do for it: it may be longer than a user's, and hold dots. The image names each number
(mkosi.postinst.d/25-daemon-users.chroot), because systemd starts nothing as one that has no name. Which is whose
stands in a drop-in of the daemon's unit in a folder in memory, and nowhere else, so that a daemon that systemd starts
again while hatcheryd is away is the same user. A name keeps its number when its client goes, because systemd may still
know the unit; what the client had, files and devices, is gone then.
"""

import re
from pathlib import Path

from appliance.errors import NoSpace
from appliance.host.files import replace

FIRST = 200_000
"""The first of the numbers. systemd's table of users (UIDS-GIDS.md) gives 65536 to 524287 to nobody, and users who log
in have subordinate ones from 100000: there are none on the appliance."""

MOST = 1024
"""How many there are."""

UNITS = Path("/run/systemd/system")
"""Where systemd looks for drop-ins that go with the machine."""

_USER = re.compile(r"^User=(\d+)$", re.MULTILINE)


class DaemonUsers:
    """The numbers that were given out. The caller holds the service's lock."""

    def __init__(self, folder: Path = UNITS) -> None:
        self._folder = folder
        self._known: dict[str, int] = {}

    def of(self, client: str) -> int:
        """The user of a client's daemon, who is also its group; given out when it has none. Raises NoSpace."""
        if client not in self._known:
            file = self._folder / f"hatchery-nbd@{client}.service.d" / "user.conf"
            found = _read(file)
            if found is None:
                found = self._free()
                file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                replace(file, dropin(found), 0o644)
            self._known[client] = found
        return self._known[client]

    def _free(self) -> int:
        taken = {_read(file) for file in self._folder.glob("hatchery-nbd@*.service.d/user.conf")}
        for number in range(FIRST, FIRST + MOST):
            if number not in taken:
                return number
        raise NoSpace(
            "there is no user left for a storage daemon",
            why="all that systemd keeps for such users are taken",
            hint="restart the machine: that frees them all",
        )


def dropin(user: int) -> str:
    """What the unit of a daemon is told of its user."""
    return f"# Written by hatcheryd.\n[Service]\nUser={user}\nGroup={user}\nEnvironment=OWNER={user}\n"


def _read(file: Path) -> int | None:
    try:
        found = _USER.search(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return int(found[1]) if found else None
