"""The command line of script/collection: the roles, modules and playbooks of the checkout as an Ansible collection.

In the checkout ansible.cfg tells Ansible where modules and what they share are; in a collection each file has its
place, and modules find what they share by the collection's name.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = "ansible_collections.hatchery.appliance.plugins.module_utils"
"""What the folder plugins/module_utils is called inside the collection."""

_IMPORT = re.compile(r"^from ansible\.module_utils\.(hatchery\w*) import", re.MULTILINE)


def assemble(into: Path, root: Path = ROOT) -> None:
    """Put the collection's files into a folder that does not exist yet, each at the place that Ansible wants."""
    ansible = root / "ansible"
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ansible / "plugins", into / "plugins", ignore=ignore)
    shutil.copytree(root / "roles", into / "roles", ignore=ignore)
    shutil.copytree(ansible / "meta", into / "meta")
    for file in (*(ansible / name for name in ("galaxy.yml", "README.md", "CHANGELOG.md")), root / "LICENSE"):
        shutil.copy2(file, into / file.name)
    (into / "playbooks").mkdir()
    for playbook in sorted(ansible.glob("*.yml")):
        if playbook.name != "galaxy.yml":
            shutil.copy2(playbook, into / "playbooks" / playbook.name)
    for module in sorted((into / "plugins").rglob("*.py")):
        module.write_text(qualified(module.read_text(encoding="utf-8")), encoding="utf-8")


def qualified(source: str) -> str:
    """A module's source with imports of what modules share by the collection's name."""
    return _IMPORT.sub(rf"from {SHARED}.\1 import", source)


def galaxy() -> Path | None:
    """The program ansible-galaxy: the checkout's own, or else the one that PATH has."""
    own = ROOT / ".venv/bin/ansible-galaxy"
    found = str(own) if own.exists() else shutil.which("ansible-galaxy")
    return Path(found) if found else None


def main(argv: Sequence[str] | None = None) -> int:
    """Build the collection; the last line on standard output is the archive's path. Returns the exit status."""
    made = argparse.ArgumentParser(
        prog="script/collection",
        description="Build the Ansible collection hatchery.appliance out of roles/ and ansible/.",
    )
    made.add_argument("--output", type=Path, default=ROOT / "build", metavar="DIR", help="where to (default: build)")
    words = made.parse_args(argv)
    program = galaxy()
    if program is None:
        sys.stderr.write("collection: there is no ansible-galaxy; run script/bootstrap\n")
        return 1
    output: Path = words.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hatchery-collection-") as scratch:
        folder = Path(scratch) / "collection"
        assemble(folder)
        command: list[str | Path] = [program, "collection", "build", "--force", "--output-path", output, folder]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
        if done.returncode != 0:
            sys.stderr.write(f"collection: ansible-galaxy failed with status {done.returncode}; see above\n")
            return 1
    newest = max(output.glob("hatchery-appliance-*.tar.gz"), key=lambda file: file.stat().st_mtime)
    sys.stdout.write(f"{newest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
