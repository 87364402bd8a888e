"""udevd inside the lab, and devices that hold what it would like to act on."""

import gzip
from enum import StrEnum
from pathlib import Path

from appliance import wait
from appliance.run import Runner

_FOLDER = Path("/dev/shm/signatures")  # noqa: S108 - inside the lab
_KINDS = ("ext4", "lvm", "md", "bcache")
_KINDS_RECORDED = ("btrfs", "gpt")
_RECORDED = Path("/hatchery/tests/data/signatures")
"""Beginnings of disks as programs made them that the appliance has no use for, and does not have."""
_LVM = ["--config", "activation{udev_sync=0 udev_rules=0} devices{use_devicesfile=0}"]
_OURS = ("/usr/lib/udev/rules.d/55-hatchery-dm.rules", "/etc/udev/rules.d/69-bcache.rules")
_MASKS = ("/etc/udev/rules.d/64-md-raid-assembly.rules", "/etc/udev/rules.d/63-md-raid-arrays.rules")


class Rules(StrEnum):
    """Whether the appliance's own rules (and what it masks) are in force."""

    OURS = "ours"
    DISTRIBUTION = "distribution"


def start(rules: str = Rules.OURS) -> None:
    """Start udevd and let it see every device."""
    if rules == Rules.DISTRIBUTION:
        for path in (*_OURS, *_MASKS):
            Path(path).unlink(missing_ok=True)
        # mdadm's incremental assembly obeys this file too.
        Path("/etc/mdadm/mdadm.conf").write_text("AUTO +all\n", encoding="ascii")
    Runner().run(["/usr/lib/systemd/systemd-udevd", "--daemon"])
    wait.until(Path("/run/udev/control").exists, "udevd", deadline=20)
    trigger()


def trigger(action: str = "add") -> None:
    """Tell udevd of all block devices again and wait until it has done its work."""
    Runner().run(["udevadm", "trigger", f"--action={action}", "--subsystem-match=block"])
    Runner().run(["udevadm", "settle", "--timeout=60"])


def make_signatures() -> list[str]:
    """Image files with a file system, an LVM volume group, an array, a bcache device and more; before udevd runs."""
    run = Runner().run
    _FOLDER.mkdir(exist_ok=True)
    run(["modprobe", "--all", "bcache", "raid1"])
    files = {kind: _FOLDER / kind for kind in _KINDS}
    for file in files.values():
        run(["truncate", "--size=16M", file])
    run(["mkfs.ext4", "-q", "-L", "intruder", files["ext4"]])
    run(["make-bcache", "--bdev", _attach(files["bcache"])])
    disk = _attach(files["lvm"])
    run(["pvcreate", *_LVM, disk])
    run(["vgcreate", *_LVM, "intruder", disk])
    run(["lvcreate", *_LVM, "--yes", "--wipesignatures=n", "--zero=n", "--extents=1", "--name=trap", "intruder"])
    run(["vgchange", *_LVM, "--activate=n", "intruder"])
    disk = _attach(files["md"])
    words = ["--level=1", "--raid-devices=2", "--metadata=1.2", "--name=intruder", "--run"]
    run(["mdadm", "--create", "/dev/md99", *words, disk, "missing"])
    run(["mdadm", "--stop", "/dev/md99"])
    run(["losetup", "--detach-all"])
    for kind in _KINDS_RECORDED:
        files[kind] = _FOLDER / kind
        files[kind].write_bytes(gzip.decompress((_RECORDED / f"{kind}.gz").read_bytes()))
    return [str(file) for file in files.values()]


def _attach(file: Path) -> str:
    return Runner().run(["losetup", "--find", "--show", file]).stdout.strip()


def announce(devices: list[str]) -> list[str]:
    """Devices over these that are announced as dmsetup does it, with a cookie: the distribution's rules look into such.

    Those that are made by plain ioctls are passed over by its rules too, which is no more than luck.
    """
    made = []
    for number, device in enumerate(devices):
        name = f"hatchery-loud-{number}"
        sectors = Runner().run(["blockdev", "--getsz", device]).stdout.strip()
        words = ["dmsetup", "create", name, "--uuid", f"HATCHERY-loud-{number}"]
        Runner().run([*words, "--table", f"0 {sectors} linear {device} 0"], timeout=60)
        made.append(f"/dev/mapper/{name}")
    Runner().run(["udevadm", "settle", "--timeout=60"])
    return made


def what_shows(devices: list[str]) -> dict[str, list[str]]:
    """What udev and the kernel made of each device: probed types, links, arrays, cached devices."""
    found: dict[str, list[str]] = {}
    for device in devices:
        node = Path(device).resolve()
        facts = []
        properties = Runner().run(["udevadm", "info", "--query=property", f"--name={node}"]).stdout.splitlines()
        facts += [line for line in properties if line.startswith(("ID_FS_", "ID_PART_"))]
        links = next((line for line in properties if line.startswith("DEVLINKS=")), "")
        facts += [link for link in links.removeprefix("DEVLINKS=").split() if "/dev/mapper/" not in link]
        facts += [f"holder {path.name}" for path in (Path("/sys/block") / node.name / "holders").iterdir()]
        if (Path("/sys/block") / node.name / "bcache").exists():
            facts.append("registered as bcache")
        found[device] = facts
    return found


def arrays() -> list[str]:
    """Arrays that the kernel knows, running or not."""
    return sorted(path.parent.name for path in Path("/sys/block").glob("md*/md"))
