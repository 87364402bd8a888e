"""The command line of script/image."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from imagebuild import addon, bundle, secure_boot
from imagebuild.cache import cache_directory
from imagebuild.command import BuildError, run, say
from imagebuild.disk import Existing, identity, sealed, write
from imagebuild.kinds import KINDS, ROOT, build, place, tools_tree
from imagebuild.mkosi import Mkosi


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    made = argparse.ArgumentParser(
        prog="script/image",
        description="Build Hatchery's images. The last line on standard output is the path of the result.",
        epilog="Results are kept by the digest of their inputs below HATCHERY_CACHE (default: ~/.cache/hatchery).",
    )
    commands = made.add_subparsers(dest="image", required=True, metavar="IMAGE")
    summaries = {name: kind.summary for name, kind in KINDS.items()}
    for name, summary in {**summaries, "all": "all of them, one path a line"}.items():
        one = commands.add_parser(name, help=summary, description=f"Build: {summary}.")
        one.add_argument("--force", action="store_true", help="build again, with the newest packages")
        one.add_argument("--where", action="store_true", help="only say where the result is or would be")
    summary = "put the appliance on a disk, or into a new file for a virtual machine"
    one = commands.add_parser("write", help=summary, description=f"{summary.capitalize()}.")
    one.add_argument("target", type=Path, metavar="DISK|FILE", help="a whole disk (best by /dev/disk/by-id) or a file")
    one.add_argument("--ssh-key", type=Path, required=True, metavar="FILE", help="public key that may log in as root")
    one.add_argument("--hostname", help="the box's name (default: hatchery)")
    one.add_argument("--network", type=Path, metavar="FILE", help="a .network file of systemd's, instead of DHCP")
    one.add_argument("--wipe", action="store_true", help="lose what is on the target; without it a used one is refused")
    summary = "make an update of the appliance: both halves of /usr and a kernel, signed with your SSH key"
    one = commands.add_parser("bundle", help=summary, description=f"{summary.capitalize()}.")
    one.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="SSH key that signs (a .pub: ask the agent)"
    )
    one.add_argument("--version", metavar="N.N.N", help="the version that it gets (default: that of mkosi.conf)")
    one.add_argument("--to", type=Path, metavar="DIR", help="a folder that is made for it (default: beside the image)")
    summary = "boot the appliance in QEMU to its login prompt, and say how long it took"
    commands.add_parser("test-boot", help=f"{summary} (also: --test-boot)", description=f"{summary.capitalize()}.")
    summary = "make your keys for Secure Boot, with which the appliance's images are signed from then on"
    commands.add_parser("keys", help=summary, description=f"{summary.capitalize()}. See docs/security.md.")
    return made


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line. ``--test-boot`` is another word for the command of that name. Raises SystemExit."""
    words = list(argv)
    if words[:1] == ["--test-boot"]:
        words[0] = "test-boot"
    return parser().parse_args(words)


def run_command(words: argparse.Namespace, cache: Path) -> None:
    """Do what the command line says; results go to standard output."""
    mkosi = Mkosi(cache)
    if words.image == "keys":
        sys.stdout.write(f"{secure_boot.make(secure_boot.home(), mkosi).certificate.parent}\n")
        return
    keys = secure_boot.find(secure_boot.home(), time.time())
    appliance = secure_boot.signed(KINDS["appliance"], keys)
    if words.image == "write":
        who = identity(words.ssh_key, words.hostname, words.network)
        image = build(appliance, cache, mkosi=mkosi, fresh=False)
        tools = tools_tree(cache, mkosi=mkosi)
        files = sealed(who, tools) if keys is None else addon.files(who, keys, mkosi, cache)
        existing = Existing.WIPE if words.wipe else Existing.REFUSE
        write(image, words.target, files, existing=existing)
        sys.stdout.write(f"{words.target}\n")
        return
    if words.image == "bundle":
        version = bundle.version(words.version)
        bundle.check_key(words.key)
        image = build(secure_boot.signed(bundle.kind(version), keys), cache, mkosi=mkosi, fresh=False)
        made = bundle.make(image, version, words.key, words.to or image.parent / f"hatchery_{version}")
        sys.stdout.write(f"{made}\n")
        return
    if words.image == "test-boot":
        python = ROOT / ".venv/bin/python"
        if not python.exists():
            raise BuildError("the image was not booted", "there is no Python environment", "run script/bootstrap")
        run([python, "-m", "bench.first_boot", build(appliance, cache, mkosi=mkosi, fresh=False)], cwd=ROOT)
        return
    for plain in KINDS.values() if words.image == "all" else [KINDS[words.image]]:
        kind = secure_boot.signed(plain, keys)
        path = place(kind, cache) / kind.result if words.where else build(kind, cache, mkosi=mkosi, fresh=words.force)
        sys.stdout.write(f"{path}\n")
        sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is asked for; return the exit status."""
    words = parse(sys.argv[1:] if argv is None else argv)
    # Ended from outside, it cleans up as after Ctrl-C. A job in the background would ignore SIGINT itself.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_command(words, cache_directory())
    except BuildError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing half done is left")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
