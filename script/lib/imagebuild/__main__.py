"""The command line of script/image."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from imagebuild.command import BuildError, say
from imagebuild.kinds import KINDS, build, place
from imagebuild.mkosi import Mkosi


def cache_directory() -> Path:
    """Return where everything that can be made again is kept: HATCHERY_CACHE, or `hatchery` below the user's cache."""
    if given := os.environ.get("HATCHERY_CACHE"):
        return Path(given).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "hatchery"


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    kinds = "\n".join(f"  {kind.name:<10} {kind.summary}" for kind in KINDS.values())
    made = argparse.ArgumentParser(
        prog="script/image",
        description="Build Hatchery's images. The last line on standard output is the path of the result.",
        epilog=f"images:\n{kinds}\n  all        all of them, one path a line\n\n"
        "Results are kept by the digest of their inputs below HATCHERY_CACHE (default: ~/.cache/hatchery).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("image", choices=[*KINDS, "all"])
    made.add_argument("--force", action="store_true", help="build again, with the newest packages")
    made.add_argument("--where", action="store_true", help="only say where the result is or would be")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is asked for; return the exit status."""
    words = parser().parse_args(argv)
    cache = cache_directory()
    kinds = list(KINDS.values()) if words.image == "all" else [KINDS[words.image]]
    try:
        for kind in kinds:
            if words.where:
                path = place(kind, cache) / kind.result
            else:
                path = build(kind, cache, mkosi=Mkosi(cache), fresh=words.force)
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()
    except BuildError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing half done is left")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
