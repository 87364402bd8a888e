"""The client's side of this package as one archive: what ``hatchery`` and ``hatchery-attach`` are made of.

``python -m appliance.packed`` prints it, a tar in xz, in Base64: the role hypervisor takes it to hosts of guests. It is
the same, byte for byte, for the same sources.
"""

import base64
import io
import lzma
import sys
import tarfile
from pathlib import Path

PARTS = (
    *("attach", "bootset", "cli", "client", "config", "errors", "host", "measure", "model", "progress", "redact"),
    *("remote", "run", "schema", "unpack", "wait", "words"),
)
"""The parts of the package that the two programs need."""

_KINDS = (".py", ".j2")


def files() -> tuple[Path, ...]:
    """What goes into it, relative to the folder of the package's folder."""
    package = Path(__file__).parent
    found = [package / "__init__.py"]
    for part in PARTS:
        inside = (package / part).rglob("*") if (package / part).is_dir() else [package / f"{part}.py"]
        found += [path for path in inside if path.suffix in _KINDS]
    return tuple(sorted(path.relative_to(package.parent) for path in found))


def archive() -> bytes:
    """The archive."""
    above = Path(__file__).parents[1]
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in files():
            data = (above / path).read_bytes()
            member = tarfile.TarInfo(path.as_posix())
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return lzma.compress(plain.getvalue())


if __name__ == "__main__":
    sys.stdout.write(base64.b64encode(archive()).decode("ascii"))
