"""``hatchery-store`` with its verbs for bad days: ``backup``, ``restore``, ``repair``; the others are the store's."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from appliance import config, progress
from appliance.rescue import backup, bundle, repair, restore, stream
from appliance.store import main as store
from appliance.store.machine import Machine


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return store.main(argv, add=_add)


def _add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    make = verbs.add_parser("backup", help="back up the pool's metadata, the catalog and the settings")
    make.add_argument("--to", metavar="DIR", help="into this folder, as one archive; - is standard output")
    make.add_argument("--deadline", type=float, default=stream.FOREVER, metavar="SECONDS", help="give up after that")
    make.set_defaults(run=_backup)
    put = verbs.add_parser("restore", help="put a lost catalog back, from a backup and from what the pools hold")
    put.add_argument("source", nargs="?", metavar="BACKUP", help="its folder or archive, - for standard input")
    put.add_argument("--without-backup", action="store_true", help="begin empty: every volume gets a new name")
    put.add_argument("--yes", action="store_true", help="do it, instead of saying what would be done")
    put.set_defaults(run=_restore)
    mend = verbs.add_parser("repair", help="repair the durable pool's metadata")
    mend.add_argument("--copy-to", metavar="DIR", type=Path, help="keep copies there, not on the state file system")
    mend.add_argument("--from-dump", nargs="?", const="", metavar="BACKUP", help="go back to a dump (the newest)")
    mend.add_argument("--yes", action="store_true", help="write the new metadata back")
    mend.set_defaults(run=_repair)


def _repair(arguments: argparse.Namespace) -> int:
    source: str | None = arguments.from_dump
    wish = repair.Wish(arguments.copy_to, source is not None, source or "", bool(arguments.yes))
    with progress.bar("looking at the metadata") as bar:
        repair.run(Machine(config.load()), wish, _say, bar)
    return store.OK


def _restore(arguments: argparse.Namespace) -> int:
    machine = Machine(config.load())
    empty, sure = bool(arguments.without_backup), bool(arguments.yes)
    restore.run(machine, arguments.source, empty=empty, sure=sure, say=_say)
    return store.OK


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _backup(arguments: argparse.Namespace) -> int:
    machine = Machine(config.load())
    if arguments.to is None:
        with progress.bar("copying the catalog") as bar:
            made = backup.local(machine, deadline=arguments.deadline, bar=bar)
        sys.stderr.write(f"{made.folder}\n")
        return store.OK
    where = None if arguments.to == "-" else Path(arguments.to)
    with tempfile.TemporaryDirectory(dir=where, prefix="hatchery-") as folder:
        with progress.bar("copying the catalog") as bar:
            made = backup.elsewhere(machine, Path(folder), deadline=arguments.deadline, bar=bar)
        if where is None:
            bundle.write_tar(made, sys.stdout.buffer)
        else:
            sys.stderr.write(f"{bundle.save_tar(made, where)}\n")
    return store.OK


if __name__ == "__main__":
    sys.exit(main())
