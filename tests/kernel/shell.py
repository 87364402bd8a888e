"""``script/lab``: a shell in User-Mode Linux with the store up on file disks."""

import argparse
import os
import pty
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance import wait
from appliance.errors import DeadlineExceeded, HatcheryError
from tests.kernel import requirements
from tests.kernel.inside import setup
from tests.kernel.lab import InsideError, Job, Lab, LabError, Options

API = "/run/hatchery/api.sock"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    reason = requirements.unmet()
    if reason:
        print(f"script/lab: {reason}", file=sys.stderr)
        return 1
    keep: Path | None = arguments.keep
    kept = keep if keep and (keep / "disks").is_dir() else None
    try:
        lab = Lab(requirements.tree(), Options(udev=arguments.udev), prepared=kept)
        try:
            return work(lab, arguments, kept)
        finally:
            if keep:
                lab.kill()
                lab.save(keep)
                say(f"the disks are kept in {keep}")
            lab.close()
    except (HatcheryError, LabError, InsideError) as error:
        print(f"script/lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/lab",
        description="A shell in User-Mode Linux (Debian 13) with Hatchery's store up on file disks, and the service "
        "running: try `hatchery status`. Leaving the shell ends the machine and removes its disks. Needs root, no KVM.",
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the disks in DIR, and start from them next time")
    parser.add_argument("--empty", action="store_true", help="leave the disks empty: no store, no service")
    parser.add_argument("--udev", action="store_true", help="start udevd, with the appliance's rules")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="run this instead of a shell, and end with its status"
    )
    return parser.parse_args(argv)


def work(lab: Lab, arguments: argparse.Namespace, kept: Path | None) -> int:
    with terminal() as (ours, theirs):
        say("starting the machine")
        lab.start(theirs)
        if not arguments.empty:
            bring_up(lab, kept)
        if arguments.command:
            done = lab.run(arguments.command, timeout=600, check=False)
            sys.stdout.write(done.stdout)
            sys.stderr.write(done.stderr)
            return done.returncode
        size = shutil.get_terminal_size()
        say("the checkout is in /hatchery (read-only); leave with `exit`")
        shell = lab.begin(["/hatchery/tests/kernel/inside/shell.sh", str(size.lines), str(size.columns)])
        relay(ours, shell)
        return 0


def bring_up(lab: Lab, kept: Path | None) -> None:
    """The store, set up when the disks are new, and the programs that belong to it."""
    if kept is None:
        say("setting up the store")
        lab.call(setup.everything, timeout=240)
    else:
        say("bringing the store up")
        lab.run(["hatchery-store", "up"], timeout=120)
    lab.begin(["hatchery-retry"])
    daemon = lab.begin(["hatcheryd"])
    try:
        wait.until(
            lambda: daemon.done() or lab.run(["test", "-S", API], check=False).returncode == 0, "hatcheryd", deadline=60
        )
    except DeadlineExceeded as error:
        say(str(error))
    if daemon.done():
        say(f"hatcheryd ended:\n{daemon.stderr}")


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: ours, and the machine's."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def relay(ours: int, shell: Job) -> None:
    """Join this terminal and the machine's until the shell ends."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin) if os.isatty(stdin) else None
    if before is not None:
        tty.setraw(stdin)
    watched = [ours, stdin]
    try:
        while not shell.done():
            ready, _, _ = select.select(watched, [], [], 0.2)
            if ours in ready:
                os.write(sys.stdout.fileno(), os.read(ours, 65536))
            if stdin in ready:
                typed = os.read(stdin, 65536)
                if typed:
                    os.write(ours, typed)
                else:
                    watched.remove(stdin)
                    os.write(ours, b"\x04")
    finally:
        if before is not None:
            termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
