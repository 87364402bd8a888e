"""A guest's disk to look into, who looks there, and what he can do besides."""

import errno
import os
import threading
from pathlib import Path

from appliance import wait
from appliance.attach import look, target
from appliance.attach.attachment import Options, attach, detach
from appliance.errors import CommandFailed
from appliance.host import device_access
from appliance.host.nbd import Kernel
from appliance.model import Access
from appliance.run import Runner

TABLE = 'label: gpt\nstart=2048, size=16384, name="root [b]"\nstart=18432, size=4096, name="empty"\n'
HELD = Path("/run/held")


def furnish(uri: str) -> str:
    """Give a clone what a guest would: two partitions, a file system on the first. Its UUID."""
    with Kernel() as kernel:
        wanted = target.parse(uri)
        device = attach(wanted, Options(), kernel)
        run = Runner().run
        run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", device.path], stdin=TABLE)
        run(["mkfs.ext4", "-q", "-F", "-L", "a guest's", "-E", f"offset={1 << 20}", device.path, "8M"])
        said = run(["blkid", "--probe", f"--offset={1 << 20}", "--match-tag=UUID", "--output=value", device.path])
        detach(device, kernel, force=False)
    return said.stdout.strip()


def hold(uri: str) -> None:
    """Look, and never come to an end."""
    with Kernel() as kernel, look.shown(target.parse(uri), kernel) as device:
        HELD.write_text(str(device.path))
        threading.Event().wait()


def held() -> str:
    """Wait until somebody looks; his device."""
    wait.until(HELD.exists, "the look", deadline=40)
    return wait.until(lambda: HELD.read_text(encoding="ascii"), "the look", deadline=10)


def _can_be_claimed(device: Path) -> bool:
    """Whether it could be mounted, or made part of another device."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def may(uri: str, other: str) -> dict[str, bool]:
    """What can be done with the device of a look: by root, and by the user who judges what is on it."""
    user = 2_123_456_789
    with Kernel() as kernel, look.shown(target.parse(uri), kernel) as device:
        device_access.let_in(device.path, user, Access.READ_ONLY)

        def works(*words: str) -> bool:
            try:
                Runner().run(words)
            except CommandFailed:
                return False
            return True

        def confined(*words: str) -> bool:
            return works(*map(str, look.as_nobody(user, *words)))

        read, write = (f"if={device.path}", "of=/dev/null"), ("if=/dev/zero", f"of={device.path}")
        return {
            "root writes": works("dd", *write, "bs=4096", "count=1", "conv=notrunc,fsync"),
            "it reads": confined("dd", *read, "bs=4096", "count=1"),
            "it writes": confined("dd", *write, "bs=4096", "count=1", "conv=notrunc"),
            "it reads another": confined("dd", f"if={other}", "of=/dev/null", "bs=4096", "count=1"),
            "it writes a file": confined("dd", "if=/dev/zero", "of=/dev/shm/looked", "bs=4096", "count=1"),
            "it has a capability": confined("grep", "-q", "^Cap.*[1-9a-f]$", "/proc/self/status"),
            "it has a group": confined("grep", "-q", "^Groups:.*[0-9]", "/proc/self/status"),
            "others claim it": _can_be_claimed(device.path),
        }
