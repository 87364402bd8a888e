"""The command line of script/reference."""

import argparse
import sys
from collections.abc import Sequence

from reference.files import ROOT, made


def main(argv: Sequence[str] | None = None) -> int:
    """Write what differs, or only say so; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="script/reference",
        description="Write the files that are made from the code.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 when a file is not as it should be"
    )
    words = parser.parse_args(argv)
    old = [path for path, text in made().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    old += [path for path in (ROOT / "docs/man").glob("*.[18]") if path not in made()]
    for path in old:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if words.check:
            continue
        if path in made():
            path.parent.mkdir(exist_ok=True)
            path.write_text(made()[path], encoding="utf-8")
        else:
            path.unlink()
    return 1 if words.check and old else 0


if __name__ == "__main__":
    sys.exit(main())
