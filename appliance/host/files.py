"""Files that are replaced as a whole."""

import os
from pathlib import Path


def replace(path: Path, content: str | bytes, mode: int) -> None:
    """Give a file this content and mode; who reads it sees all of the old content or all of the new.

    The folder may belong to somebody who is trusted less: a link that stands in the way is not followed.
    """
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123  a descriptor
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.fchmod(handle, mode)
    fresh.replace(path)
