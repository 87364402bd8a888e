"""What is remembered about updates: on the root file system, which both slots share.

``trial.json`` is there from the moment at which a version was put on trial until it was found good; when it was given
up instead, it says why. ``forms.json`` says which form of the catalog each version writes.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from appliance.errors import CannotTell, InUse
from appliance.update.version import Version

FOLDER = Path("/var/lib/hatchery-update")
REASONS = 10
"""How many failed tries are kept."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that has to show that it is good, the one that it was put there by, and why tries of it failed."""

    version: str
    by: str
    reasons: tuple[str, ...] = ()

    def failed(self, why: str) -> "Trial":
        """The same after one more failed try."""
        return replace(self, reasons=(*self.reasons, why)[-REASONS:])


class Record:
    """The files."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be the only one who changes the slots. Raises InUse."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InUse("the slots are being changed", why="another hatchery-update is running") from error
            yield
        finally:
            os.close(fd)

    def trial(self) -> Trial | None:
        """The version that is or was on trial last, unless it was found good. Raises CannotTell."""
        values = self._read("trial.json")
        if values is None:
            return None
        try:
            return Trial(str(values["version"]), str(values["by"]), tuple(str(why) for why in values["reasons"]))
        except (KeyError, TypeError) as error:
            raise CannotTell("the record of the last update is damaged", why=repr(error)) from error

    def set_trial(self, trial: Trial) -> None:
        """Remember it."""
        self._write("trial.json", asdict(trial))

    def end_trial(self) -> None:
        """It was found good."""
        (self.folder / "trial.json").unlink(missing_ok=True)

    def form(self, of: Version) -> int | None:
        """The form of the catalog that a version writes; None when that is not known. Raises CannotTell."""
        found = (self._read("forms.json") or {}).get(str(of))
        return found if isinstance(found, int) else None

    def set_forms(self, forms: Mapping[Version, int]) -> None:
        """Remember which form these versions write, and forget about others."""
        self._write("forms.json", {str(of): form for of, form in forms.items()})

    def _read(self, name: str) -> Mapping[str, Any] | None:
        file = self.folder / name
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CannotTell(f"{file} cannot be read", why=str(error)) from error
        if not isinstance(values, dict):
            raise CannotTell(f"{file} cannot be read", why="it is damaged")
        return values

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        """Replace a file in one step: a power cut leaves the old one or the new one."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=f".{name}-", delete=False) as file:
            file.write(json.dumps(values, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).rename(self.folder / name)
