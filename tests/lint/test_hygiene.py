"""What must not stand in any file: a package mirror's name, a developer machine's paths."""

import re
from pathlib import Path

from tests.lint.files import all_files, front_door, shell_scripts, short

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


EXEMPTION = re.compile(r"# (?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z-, ]+\]|shellcheck disable=\S+)")
"""What lets a line be what ruff, mypy or shellcheck would not have."""


def unreasoned(text: str) -> list[str]:
    """Lines that are exempt from a rule, and do not say why: after the exemption, or in a comment on the line above."""
    lines = text.splitlines()
    return [
        line.strip()
        for above, line in zip(["", *lines], lines, strict=False)
        if (match := EXEMPTION.search(line))
        and not re.search("[a-z]{2}", EXEMPTION.sub("", line[match.start() :]))
        and not above.lstrip().startswith("#")
    ]


def test_no_rule_is_set_aside_without_a_reason() -> None:
    files = [file for file in all_files() if file.suffix in (".py", ".sh") or file in (*shell_scripts(), *front_door())]
    assert len(files) > 100
    wrong = {short(file): unreasoned(file.read_text(encoding="utf-8")) for file in files}
    assert {name: lines for name, lines in wrong.items() if lines} == {}


def test_an_exemption_without_a_reason_is_seen() -> None:
    bare = "x = y  # no" + "qa: S314"
    both = "x = y  # type: " + f"ignore[arg-type]{bare[5:]}"
    assert unreasoned(f"{bare}\n{both}") == [bare, both]
    assert unreasoned(f"{bare}  it is ours\n# It is ours.\n{both}\n{both}  it is ours") == []


def test_no_package_mirror_is_named() -> None:
    assert found(MIRROR) == []


def test_no_path_of_a_private_machine() -> None:
    ours = short(Path(__file__))
    assert [hit for hit in found(PRIVATE_PATH) if not hit.startswith(ours)] == []
