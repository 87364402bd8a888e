"""What must not stand in any file: a package mirror's name, a developer machine's paths."""

import re
from pathlib import Path

from tests.lint.files import all_files, short

# Written in pieces, so that this file does not name them either.
HOSTS = (
    "deb" + ".debian.org",
    "security" + ".debian.org",
    "pypi" + ".org",
    "python" + "hosted.org",
    "registry" + ".npmjs",
)
MIRROR = re.compile("|".join(re.escape(host) for host in HOSTS))
# A path below somebody's home or workplace; documentation uses ~ and relative paths.
PRIVATE_PATH = re.compile(r"(?<![\w.~$}])/(?:work|farm|tmp/hq|home/[a-z]\w+|root/(?!\.ssh))\b/?")


def found(pattern: re.Pattern[str]) -> list[str]:
    hits = []
    for file in all_files():
        if file.suffix == ".trace" or file.name == "LICENSE":
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits += [f"{short(file)}: {match.group()}" for match in pattern.finditer(text)]
    return hits


def test_no_package_mirror_is_named() -> None:
    assert found(MIRROR) == []


def test_no_path_of_a_private_machine() -> None:
    ours = short(Path(__file__))
    assert [hit for hit in found(PRIVATE_PATH) if not hit.startswith(ours)] == []
