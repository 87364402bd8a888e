"""Which files lint looks at: all that git tracks or would track."""

from functools import cache
from pathlib import Path

from appliance.run import Runner

ROOT = Path(__file__).resolve().parents[2]


@cache
def all_files() -> tuple[Path, ...]:
    """Every file of the checkout that is tracked or not ignored."""
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    listed = Runner().run([*git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]).stdout
    files = (ROOT / name for name in sorted(set(listed.split("\0"))) if name)
    return tuple(file for file in files if file.is_file() and not file.is_symlink())


def first_line(file: Path) -> str:
    """The file's first line, or an empty string when it is not text."""
    with file.open("rb") as opened:
        return opened.readline(200).decode("utf-8", errors="replace").rstrip("\n")


@cache
def shell_scripts() -> tuple[Path, ...]:
    """Files whose first line asks for a shell, and files named like shell scripts."""
    return tuple(
        file
        for file in all_files()
        if file.suffix == ".sh" or (first_line(file).startswith("#!") and first_line(file).endswith(("/sh", "bash")))
    )


@cache
def front_door() -> tuple[Path, ...]:
    """The programs directly in script/."""
    return tuple(file for file in all_files() if file.parent == ROOT / "script")


def short(file: Path) -> str:
    """The file's path below the checkout."""
    return str(file.relative_to(ROOT))
