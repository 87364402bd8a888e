"""LVM's thin snapshots, to compare with: a volume group on a disk of its own, without udev and without backups."""

import re
import secrets
import string
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from appliance.host.dm import Dm
from appliance.run import Runner

GROUP = "bench"
_ALPHABET = string.ascii_letters + string.digits
_FIRST = "snap1"


def lvm(disk: str, *words: str) -> None:
    """Run one of LVM's commands, which may see that disk alone. Raises CommandFailed."""
    path = str(Path(disk).resolve())
    settings = (
        f'devices {{ filter=["a|^{path}$|","r|.*|"] use_devicesfile=0 obtain_device_list_from_udev=0 }}'
        " activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }"
    )
    Runner().run([*words[:1], "--config", settings, *words[1:]], timeout=300)


def prepare(disk: str, count: int, size: int) -> None:
    """A thin volume of ``size`` bytes with ``count`` thin snapshots, none of them active.

    One snapshot is LVM's own; the others are made as it makes them, by messages to the pool and by entries in the
    group's metadata, but in one go: with ``lvcreate`` each it would take many minutes.
    """
    lvm(disk, "pvcreate", "-ff", "-y", disk)
    lvm(disk, "vgcreate", GROUP, disk)
    lvm(disk, "lvcreate", "-y", "--type", "thin-pool", "--chunksize", "64k", "--poolmetadatasize", "64m",
        "-L", "256m", "-n", "pool", GROUP)  # fmt: skip
    lvm(disk, "lvcreate", "-y", "-V", f"{size}b", "--thin", "-n", "base", f"{GROUP}/pool")
    lvm(disk, "lvcreate", "-y", "-s", "-n", _FIRST, f"{GROUP}/base")
    add_snapshots(lambda *words: lvm(disk, *words), GROUP, 1, count - 1)


def add_snapshots(run: Callable[..., None], group: str, have: int, count: int) -> None:
    """To the ``have`` snapshots of a group, named and numbered as here, add ``count`` more, none of them active.

    ``run`` runs one of LVM's commands, for the group alone. What is active in the group is not while this runs.
    """
    written = Path(f"/run/{group}.vg")
    run("vgcfgbackup", "-f", str(written), group)
    text, transaction = with_snapshots(written.read_text(encoding="utf-8"), count, have)
    with Dm() as dm:
        pool = f"{group}-pool-tpool"
        for ident in range(have + 2, have + count + 2):
            dm.message(pool, f"create_snap {ident} 1")
        dm.message(pool, f"set_transaction_id {transaction} {transaction + count}")
    run("vgchange", "-an", group)
    written.write_text(text, encoding="utf-8")
    run("vgcfgrestore", "--force", "-f", str(written), group)
    run("lvchange", "-y", "-ay", f"{group}/base")


def with_snapshots(text: str, count: int, have: int = 1) -> tuple[str, int]:
    """A group's metadata with ``count`` more snapshots than it has, and the pool's transaction id before.

    The format is that of vgcfgbackup(8). The volume has the device id 1 and its snapshot 2, as the first of a pool
    have. Raises ValueError when there is no such snapshot.
    """
    found = re.search(rf"^\t\t{_FIRST} \{{\n.*?^\t\t\}}\n", text, re.MULTILINE | re.DOTALL)
    pool = re.search(r'type = "thin-pool".*?transaction_id = (\d+)', text, re.DOTALL)
    if found is None or pool is None or "device_id = 2\n" not in found[0]:
        raise ValueError("the group's metadata has no first thin snapshot")
    before = int(pool[1])
    made = []
    for number in range(have, have + count):
        one = found[0].replace(f"{_FIRST} {{", f"snap{number + 1} {{", 1)
        one = re.sub(r'id = "[^"]+"', f'id = "{_uuid()}"', one, count=1)
        one = re.sub(r"transaction_id = \d+", f"transaction_id = {before + number - have}", one)
        made.append(one.replace("device_id = 2\n", f"device_id = {number + 2}\n"))
    changed = text[: pool.start(1)] + str(before + count) + text[pool.end(1) :]
    end = changed.index(found[0]) + len(found[0])
    return changed[:end] + "\n" + "\n".join(made) + changed[end:], before


def _uuid() -> str:
    """An identity as LVM writes it."""
    letters = [secrets.choice(_ALPHABET) for _ in range(32)]
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join("".join(letters[begin:end]) for begin, end in pairwise(cuts))


def snapshot(disk: str, name: str) -> float:
    """Make a thin snapshot as an operator does; seconds."""
    begin = time.perf_counter()
    lvm(disk, "lvcreate", "-s", "-n", name, f"{GROUP}/base")
    return time.perf_counter() - begin


def remove(disk: str, name: str) -> float:
    """Remove a snapshot; seconds."""
    begin = time.perf_counter()
    lvm(disk, "lvremove", "-y", f"{GROUP}/{name}")
    return time.perf_counter() - begin


def nothing() -> float:
    """Seconds of a command of LVM's that does nothing: what starting it costs."""
    begin = time.perf_counter()
    Runner().run(["lvm", "version"])
    return time.perf_counter() - begin
