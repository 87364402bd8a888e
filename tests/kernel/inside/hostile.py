"""Templates that somebody made to get at what is not his: each is refused, or taken as the plain data that it is."""

import hashlib
import json
import os
import struct
import time
import zlib
from pathlib import Path

from appliance.errors import HatcheryError
from appliance.model import KIB, MIB
from appliance.run import Runner
from tests.kernel.inside import service
from tests.kernel.inside.bench_clones import resident

FOLDER = Path("/run/hostile")
SECRET = Path("/run/secret.raw")
WORDS = b"the appliance's own secret. "
"""What no template may ever hold."""

SIZE = 4 * MIB
CLUSTER = 64 * KIB


def make() -> list[str]:
    """The corpus as files, by name; the ending says how it is announced, whatever it is."""
    FOLDER.mkdir()
    SECRET.write_bytes((WORDS * (SIZE // len(WORDS) + 1))[:SIZE])
    plain = FOLDER / "source"
    plain.write_bytes(service.content(9, SIZE))
    create, convert = ["qemu-img", "create", "-q"], ["qemu-img", "convert", "-q", "-f", "raw"]
    run = Runner().run
    by_json = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(SECRET)}})
    run([*create, "-f", "qcow2", "-b", SECRET, "-F", "raw", FOLDER / "backing.qcow2"])
    run([*create, "-f", "qcow2", "-u", "-b", f"json:{by_json}", "-F", "raw", FOLDER / "backing-json.qcow2", "4M"])
    door = "nbd+unix:///x?socket=/run/hatchery/nbd/local/nbd.sock"
    run([*create, "-f", "qcow2", "-u", "-b", door, "-F", "raw", FOLDER / "backing-nbd.qcow2", "4M"])
    for raw in ("on", "off"):
        options = f"data_file={SECRET},data_file_raw={raw}"
        copy = SECRET.read_bytes()
        run([*create, "-f", "qcow2", "-o", options, FOLDER / f"data-file-{raw}.qcow2", "4M"])
        SECRET.write_bytes(copy)  # qemu-img makes it anew
    run([*create, "-f", "qcow2", FOLDER / "huge.qcow2", "64T"])
    secret = "secret,id=s0,data=none"  # noqa: S105  no secret
    options = "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10"
    run([*create, "--object", secret, "-f", "qcow2", "-o", options, FOLDER / "luks.qcow2", "4M"])
    run([*convert, "-O", "qcow2", plain, FOLDER / "good.qcow2"])
    for kind in ("vmdk", "vdi"):
        run([*convert, "-O", kind, plain, FOLDER / f"{kind}.raw"])
        os.link(FOLDER / f"{kind}.raw", FOLDER / f"{kind}.qcow2")
    (FOLDER / "descriptor.raw").write_bytes(_descriptor())
    os.link(FOLDER / "descriptor.raw", FOLDER / "descriptor.qcow2")
    os.link(FOLDER / "backing.qcow2", FOLDER / "qcow2-header.raw")
    os.link(FOLDER / "data-file-on.qcow2", FOLDER / "data-file-header.raw")
    bomb(FOLDER / "bomb.qcow2", 8 * 1024 * MIB)
    good = (FOLDER / "good.qcow2").read_bytes()
    (FOLDER / "truncated.qcow2").write_bytes(good[: len(good) * 3 // 5])
    for name, changed in _overlapping(good).items():
        (FOLDER / f"{name}.qcow2").write_bytes(changed)
    plain.unlink()
    return sorted(path.name for path in FOLDER.iterdir())


def take(name: str) -> dict[str, object]:
    """Import one of them as it is announced; what became of it, how long that took and what hatcheryd grew by."""
    path = FOLDER / name
    kind, template = path.suffix.removeprefix("."), path.stem
    pid = hatcheryd()
    before, begin = resident(pid), time.monotonic()
    found: dict[str, object] = {}
    try:
        service.add(template, str(path), kind)
    except HatcheryError as error:
        found = {"refused": type(error).__name__, "words": str(error)}
    else:
        (clone,) = service.clones(f"of-{template}", template)
        target = Path("/run/hostile-read.raw")
        Runner().run(["nbdcopy", str(clone["uri"]), target])
        data = target.read_bytes()
        target.unlink()
        own = path.read_bytes()
        found = {
            "digest": hashlib.sha256(data).hexdigest(),
            "as_it_is": data == own + bytes(-len(own) % 512),
            "told": WORDS in data,
        }
        service.remove(f"of-{template}", force=True)
        Runner().run(["hatchery", "template", "remove", template])
    return {**found, "seconds": time.monotonic() - begin, "grown": resident(pid) - before}


def good() -> str:
    """The digest of what the good one among them holds."""
    return hashlib.sha256(service.content(9, SIZE)).hexdigest()


def hatcheryd() -> int:
    """The process that listens on the API's socket."""
    from tests.kernel.inside.fuzz import peer

    return peer(Path("/run/hatchery/api.sock"))


def _descriptor() -> bytes:
    """A VMDK that is nothing but a description, of a file of the appliance."""
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=fffffffe",
        "parentCID=ffffffff",
        'createType="monolithicFlat"',
        f'RW {SIZE // 512} FLAT "{SECRET}" 0',
    ]
    return "\n".join(lines).encode().ljust(4096, b"\n")


def bomb(path: Path, size: int) -> None:
    """A small file that says it is large: each of its clusters is the same compressed one."""
    clusters = size // CLUSTER
    l2_tables = -(-clusters // (CLUSTER // 8))
    l1_at, l2_at = CLUSTER * 3, CLUSTER * 4
    data_at = l2_at + CLUSTER * l2_tables
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size, 0, l2_tables, l1_at, CLUSTER, 1, 0, 0, 0, 0, 0, 4, 104
    )
    entry = struct.pack(">Q", 1 << 62 | data_at)
    with path.open("wb") as file:
        file.write(header.ljust(112, b"\0"))
        file.seek(l1_at)
        file.write(b"".join(struct.pack(">Q", 1 << 63 | l2_at + CLUSTER * n) for n in range(l2_tables)))
        file.seek(l2_at)
        file.write(entry * clusters)
        file.seek(data_at)
        # A window of 4 KiB is what QEMU unpacks with (block/qcow2-threads.c).
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        file.write((packer.compress(bytes(CLUSTER)) + packer.flush()).ljust(512, b"\0"))


def _overlapping(image: bytes) -> dict[str, bytes]:
    """An image whose tables lie where others are."""
    (l1_at,) = struct.unpack_from(">Q", image, 40)
    (l2_at,) = struct.unpack_from(">Q", image, l1_at)
    l2_at &= 0x00FFFFFFFFFFFE00

    def changed(at: int, value: int) -> bytes:
        return image[:at] + struct.pack(">Q", value) + image[at + 8 :]

    return {
        "l1-over-header": changed(40, 0),
        "l1-far-away": changed(40, 1 << 60),
        "l2-over-l1": changed(l1_at, 1 << 63 | l1_at),
        "data-over-l2": changed(l2_at, 1 << 63 | l2_at),
        "data-over-header": changed(l2_at, 1 << 63),
        "data-beyond-the-end": changed(l2_at, 1 << 63 | 1 << 40),
        "l1-of-many": image[:36] + struct.pack(">I", 0xFFFFFFFF) + image[40:],
    }
