"""Whether guests are waiting for anything: the requests that their clones' devices are working on."""

import time
from pathlib import Path

from appliance.host import block
from appliance.store import names

KNOWN_SECONDS = 1.0
"""For so long the list of clones' devices is taken as it was."""


class Guests:
    """Asked often: costs the reading of one small file for each exported clone."""

    def __init__(self, sysfs: Path = Path("/sys/block")) -> None:
        self._sysfs = sysfs
        self._devices: tuple[Path, ...] = ()
        self._since = float("-inf")

    def under_way(self) -> int:
        """Requests under way at this moment; 0 for a clone whose device has gone."""
        now = time.monotonic()
        if now - self._since > KNOWN_SECONDS:
            self._devices, self._since = self._find(), now
        return sum(_requests(device) for device in self._devices)

    def _find(self) -> tuple[Path, ...]:
        found = []
        for device in self._sysfs.glob("dm-*"):
            parsed = names.parse_layer(block.read_text_or(device / "dm/name").strip())
            if parsed is not None and parsed[0] in names.EXPORTED:
                found.append(device)
        return tuple(found)


def _requests(device: Path) -> int:
    return sum(int(word) for word in block.read_text_or(device / "inflight", "0").split())
