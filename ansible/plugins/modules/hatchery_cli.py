"""Ansible module: Hatchery's command line on a host of guests: ``hatchery`` and ``hatchery-attach``."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import lzma
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import fail
from ansible.module_utils.hatchery_files import Thing, Wrong, look, missing_above, ourselves, put, take_away

DOCUMENTATION = r"""
module: hatchery_cli
short_description: Put Hatchery's command line on a host of guests
description:
  - Writes the programs C(hatchery) and C(hatchery-attach), and what of Hatchery's Python package they need, as the
    machine that runs Ansible has it. What they need of others has to be installed.
  - The programs are tried before anything is written, so that what does not run there is refused.
author:
  - Hatchery authors (@hatchery)
options:
  state:
    description: Whether the programs are there. With C(absent) they are removed.
    type: str
    choices: [present, absent]
    default: present
  package:
    description: The package, as C(python -m appliance.packed) prints it.
    type: str
  directory:
    description: The folder of the package, which holds nothing else.
    type: str
    default: /usr/local/lib/hatchery
  programs:
    description: The folder of the two programs.
    type: str
    default: /usr/local/bin
attributes:
  check_mode:
    description: Reports what it would write or remove and touches nothing. Whether the programs run is not tried then.
    support: full
  diff_mode:
    description: Shows the files with their modes and digests.
    support: full
"""

EXAMPLES = r"""
- name: Put the command line on the host
  hatchery_cli:
    package: "{{ lookup('ansible.builtin.pipe', ansible_playbook_python ~ ' -m appliance.packed') }}"
"""

RETURN = r"""
programs:
  description: The programs that are there, by their paths.
  returned: success
  type: list
  elements: str
  sample: ["/usr/local/bin/hatchery", "/usr/local/bin/hatchery-attach"]
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "invalid-input", "what": "...", "why": "...", "hint": "..."}
"""

PROGRAMS = {"hatchery": "appliance.cli.main", "hatchery-attach": "appliance.attach.main"}
"""The programs, each with the module whose ``main`` it is."""

PACKAGE = "appliance"
CACHE = "__pycache__"
"""Python's own folders: they come with use, and are nobody's work."""

LAUNCHER = """\
#!/usr/bin/python3 -I
# Of Hatchery's role hypervisor, which writes it anew when it is changed here.
import sys

sys.path.insert(0, {folder!r})
from {module} import main

sys.exit(main())
"""

Run = Callable[[list[str]], tuple[int, str, str]]
"""Runs a command; its exit status and what it said on standard output and standard error."""


def unpacked(package: str) -> dict[str, bytes]:
    """The files of the package, by their names. Raises Wrong."""
    try:
        plain = lzma.decompress(base64.b64decode(package, validate=True))
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            found = {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
    except (binascii.Error, lzma.LZMAError, tarfile.TarError) as error:
        why = f"it cannot be unpacked: {error}"
        raise Wrong("the package cannot be used", why, "`python -m appliance.packed` prints it") from None
    odd = [name for name in found if not name.startswith(f"{PACKAGE}/") or ".." in PurePosixPath(name).parts]
    if odd or not all(f"{module.replace('.', '/')}.py" in found for module in PROGRAMS.values()):
        why = f"it has {odd[0]}" if odd else "the programs are not in it"
        raise Wrong("the package cannot be used", why, "`python -m appliance.packed` prints it")
    return found


def wanted(params: dict[str, Any]) -> list[Thing]:
    """The folders and files that there must be, a folder before what is in it. Raises Wrong."""
    folder, programs = Path(params["directory"]), Path(params["programs"])
    contents = [(folder / name, 0o644, data) for name, data in sorted(unpacked(params["package"]).items())]
    for name, module in PROGRAMS.items():
        contents.append((programs / name, 0o755, LAUNCHER.format(folder=str(folder), module=module).encode()))
    found: list[Thing] = []
    for path, mode, data in contents:
        found += [above for above in missing_above(path) if above not in found]
        found.append(Thing(path, mode, *ourselves(), data))
    return found


def check_folder(folder: Path) -> None:
    """Check that a folder is the package's alone: what else is in it would go with it. Raises Wrong."""
    others = [entry.name for entry in folder.iterdir() if entry.name != PACKAGE] if folder.is_dir() else []
    if others:
        raise Wrong(f"{folder} is not Hatchery's", f"it holds {min(others)}", "name a folder of its own")


def superfluous(folder: Path, kept: set[Path]) -> list[Thing]:
    """What is in the package's folder and not in the package: files, then folders that are empty without them."""
    inside = sorted((folder / PACKAGE).rglob("*"), reverse=True)
    above = {parent for path in kept for parent in path.parents}
    found = []
    for path in inside:
        # What Python keeps of a file that stays is its own.
        cached = CACHE in path.parts and (path.parent if path.parent.name == CACHE else path).parent in above
        if path not in kept | above and not cached and (thing := look(path)) is not None:
            found.append(thing)
    return found


def what_goes(params: dict[str, Any]) -> list[Thing]:
    """All that is there of it: what is in a folder before that."""
    folder, programs = Path(params["directory"]), Path(params["programs"])
    check_folder(folder)
    paths = [programs / name for name in PROGRAMS]
    found = [thing for path in paths if (thing := look(path)) is not None]
    found += superfluous(folder, set())
    found += [thing for path in (folder / PACKAGE, folder) if (thing := look(path)) is not None]
    return found


def tried(things: list[Thing], params: dict[str, Any], run: Run, scratch: str) -> None:
    """Run the programs as they would be, from a folder that only we can read. Raises Wrong."""
    folder = Path(params["directory"])
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        for thing in things:
            if thing.content is not None and folder in thing.path.parents:
                copy = Path(name) / thing.path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(thing.content)
        for module in PROGRAMS.values():
            script = LAUNCHER.format(folder=name, module=module)
            status, _, error = run(["/usr/bin/python3", "-I", "-B", "-c", script, "--help"])
            if status != 0:
                why = (error.strip().splitlines() or [f"exit status {status}"])[-1]
                hint = "Debian 13's packages suffice, those of 12 are too old: leave it out there (hypervisor_cli)"
                raise Wrong("the command line does not run on this host", why, hint)


def settle(params: dict[str, Any], run: Run, scratch: str, *, check: bool) -> dict[str, Any]:
    """Write or remove what is wanted, or only say so; returns what the task reports. Raises Wrong, OSError."""
    if params["state"] == "absent":
        going = what_goes(params)
        if not check:
            for thing in going:
                take_away(thing)
        return {"changed": bool(going), "programs": [], "diff": {"before": words(going), "after": ""}}
    folder = Path(params["directory"])
    check_folder(folder)
    things = wanted(params)
    pairs = [(look(thing.path), thing) for thing in things]
    changed = [(old, new) for old, new in pairs if old != new]
    going = superfluous(folder, {thing.path for thing in things})
    if not check and changed:
        tried(things, params, run, scratch)
        for _, thing in changed:
            put(thing)
    if not check:
        for thing in going:
            take_away(thing)
    before = [old for old, _ in changed if old is not None]
    shown = {"before": words([*before, *going]), "after": words([new for _, new in changed])}
    programs = [str(Path(params["programs"]) / name) for name in PROGRAMS]
    return {"changed": bool(changed or going), "programs": programs, "diff": shown}


def words(things: list[Thing]) -> str:
    """Files and folders for a diff: of a file its digest."""
    return "".join(
        f"{thing.path} {thing.mode:04o} "
        + ("folder\n" if thing.content is None else f"sha256 {hashlib.sha256(thing.content).hexdigest()}\n")
        for thing in things
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            # No secret, but nothing to be shown: it is long.
            "package": {"type": "str", "no_log": True},
            "directory": {"type": "str", "default": "/usr/local/lib/hatchery"},
            "programs": {"type": "str", "default": "/usr/local/bin"},
        },
        required_if=[["state", "present", ["package"]]],
        supports_check_mode=True,
    )
    try:
        done = settle(module.params, lambda argv: module.run_command(argv), module.tmpdir, check=module.check_mode)
    except Wrong as wrong:
        fail(module, wrong.words)
    except OSError as error:
        hint = "it has to be run as root: `become: true`"
        fail(module, {"code": "refused", "what": "the files cannot be changed", "why": str(error), "hint": hint})
    module.exit_json(changed=done["changed"], programs=done["programs"], diff=done["diff"])


if __name__ == "__main__":
    main()
