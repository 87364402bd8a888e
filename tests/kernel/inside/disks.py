"""Faults for disks that the lab made faulty (``Disks.FAULTY``): 0 and 9 are the NVMe drives, 1 to 6 the disks."""

from pathlib import Path

from appliance.run import Runner


def _load(number: int, table: str) -> None:
    name = f"lab-disk-{number}"
    run = Runner().run
    run(["dmsetup", "load", name], stdin=table)
    run(["dmsetup", "suspend", "--noudevsync", "--noflush", "--nolockfs", name])
    run(["dmsetup", "resume", "--noudevsync", name])


def _sectors(number: int) -> int:
    return int(Runner().run(["blockdev", "--getsz", f"/dev/mapper/lab-disk-{number}"]).stdout)


def _disk(number: int) -> str:
    return f"/dev/ubd{'abcdefghij'[number]}"


def fail(number: int) -> None:
    """From now on every request to the disk fails."""
    _load(number, f"0 {_sectors(number)} error")


def heal(number: int) -> None:
    """The disk works again, with the content that it had."""
    _load(number, f"0 {_sectors(number)} linear {_disk(number)} 0")


def bad_sectors(number: int, first: int, count: int) -> None:
    """Requests that touch ``count`` sectors from ``first`` on fail; the rest of the disk works."""
    end = first + count
    parts = [f"{first} {count} error"]
    if first:
        parts.insert(0, f"0 {first} linear {_disk(number)} 0")
    if end < _sectors(number):
        parts.append(f"{end} {_sectors(number) - end} linear {_disk(number)} {end}")
    _load(number, "\n".join(parts))


def flaky(number: int, working: int, failing: int) -> None:
    """Requests fail for ``failing`` seconds, then work for ``working``, and so on."""
    run = Runner().run
    run(["modprobe", "dm-flakey"])
    _load(number, f"0 {_sectors(number)} flakey {_disk(number)} 0 {working} {failing} 2 error_reads error_writes")


def with_large_sectors(path: str) -> None:
    """Let a plain disk that nothing uses have sectors of 4 KiB, under the stable name that it has."""
    run = Runner().run
    run(["modprobe", "loop"])
    name = Path(path)
    words = ["--sector-size=4096", "--direct-io=on", "--partscan", "--find", "--show"]
    device = run(["losetup", *words, name.resolve()]).stdout.strip()
    name.unlink()
    name.symlink_to(device)
