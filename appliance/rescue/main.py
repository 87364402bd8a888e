"""``hatchery-store`` with its verbs for bad days: ``backup``, ``restore``, ``repair``; the others are the store's.

What those verbs need is imported by each: guests wait for ``up``, which has no use for it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import config, progress
from appliance.errors import InvalidInput
from appliance.store import main as store
from appliance.store.machine import Machine

if TYPE_CHECKING:
    from appliance.rescue.bundle import Backup


def parser() -> argparse.ArgumentParser:
    """The whole command line of the program."""
    return store.parser(_add)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return store.main(argv, add=_add)


def _add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    make = verbs.add_parser("backup", help="back up the pool's metadata, the catalog and the settings")
    make.add_argument("--to", metavar="DIR", help="into this folder, as one archive; - is standard output")
    make.add_argument("--json", action="store_true", help="for programs")
    make.add_argument("--deadline", type=float, metavar="SECONDS", help="give up after that")
    make.set_defaults(run=_backup)
    put = verbs.add_parser("restore", help="put a lost catalog back, from a backup and from what the pools hold")
    put.add_argument("source", nargs="?", metavar="BACKUP", help="its folder or archive, - for standard input")
    put.add_argument("--without-backup", action="store_true", help="begin empty: every volume gets a new name")
    put.add_argument("--yes", action="store_true", help="do it, instead of saying what would be done")
    put.add_argument("--json", action="store_true", help="for programs")
    put.set_defaults(run=_restore)
    mend = verbs.add_parser("repair", help="repair the durable pool's metadata")
    mend.add_argument("--copy-to", metavar="DIR", type=Path, help="keep copies there, not on the state file system")
    mend.add_argument("--from-dump", nargs="?", const="", metavar="BACKUP", help="go back to a dump (the newest)")
    mend.add_argument("--yes", action="store_true", help="write the new metadata back")
    mend.add_argument("--json", action="store_true", help="for programs")
    mend.set_defaults(run=_repair)


def _repair(arguments: argparse.Namespace) -> int:
    from appliance.rescue import repair

    source: str | None = arguments.from_dump
    wish = repair.Wish(arguments.copy_to, source is not None, source or "", bool(arguments.yes))
    told = _Told(as_json=arguments.json)
    with progress.bar("looking at the metadata", show=not arguments.json) as bar:
        sound = repair.run(Machine(config.load()), wish, told.say, bar)
    told.end("sound", sound)
    return store.OK


def _restore(arguments: argparse.Namespace) -> int:
    from appliance.rescue import restore

    machine = Machine(config.load())
    empty, sure = bool(arguments.without_backup), bool(arguments.yes)
    told = _Told(as_json=arguments.json)
    told.end("restored", restore.run(machine, arguments.source, empty=empty, sure=sure, say=told.say))
    return store.OK


class _Told:
    """What a verb says: a line at once, or for programs all of it in one document at its end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines: list[str] = []

    def say(self, line: str) -> None:
        """A line of it."""
        self._lines.append(line)
        if not self._as_json:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def end(self, name: str, holds: bool) -> None:
        """It is over, and what it was for holds now, or only with --yes."""
        if self._as_json:
            sys.stdout.write(json.dumps({name: holds, "said": self._lines}, indent=2) + "\n")


def _backup(arguments: argparse.Namespace) -> int:
    import tempfile

    from appliance.rescue import backup, bundle, stream

    where = None if arguments.to in (None, "-") else Path(arguments.to)
    if arguments.to == "-" and arguments.json:
        why = "both would go to the standard output"
        raise InvalidInput("an archive is not JSON", why=why, hint="name a folder with --to")
    machine = Machine(config.load())
    deadline = stream.FOREVER if arguments.deadline is None else arguments.deadline
    if arguments.to is None:
        with progress.bar("copying the catalog", show=not arguments.json) as bar:
            made = backup.local(machine, deadline=deadline, bar=bar)
        _say_backup(made, made.folder, as_json=arguments.json)
        return store.OK
    with tempfile.TemporaryDirectory(dir=where, prefix="hatchery-") as folder:
        with progress.bar("copying the catalog", show=not arguments.json) as bar:
            made = backup.elsewhere(machine, Path(folder), deadline=deadline, bar=bar)
        if where is None:
            bundle.write_tar(made, sys.stdout.buffer)
        else:
            _say_backup(made, bundle.save_tar(made, where), as_json=arguments.json)
    return store.OK


def _say_backup(made: "Backup", where: Path, *, as_json: bool) -> None:
    if not as_json:
        sys.stderr.write(f"{where}\n")
        return
    found = made.manifest
    answer = {
        "path": str(where),
        "created": found.created,
        "release": found.release,
        "transaction_id": found.transaction_id,
        "catalog": made.catalog is not None,
        "dump": made.dump is not None,
    }
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
