"""The command line on a host of guests: what is written, replaced, refused and removed; and what it is made of."""

import ast
import base64
import lzma
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance import packed
from tests.lint.files import ROOT
from tests.lint.test_imports import below
from tests.unit.test_ansible_modules import load

cli = load("modules/hatchery_cli.py", "hatchery_cli")

PACKAGE = base64.b64encode(packed.archive()).decode()


def package(**files: bytes) -> str:
    """A package with these files besides the two programs; a double underscore is a slash."""
    contents = {"appliance/cli/main.py": b"cli", "appliance/attach/main.py": b"attach"}
    contents |= {name.replace("__", "/"): data for name, data in files.items()}
    plain = BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    return base64.b64encode(lzma.compress(plain.getvalue())).decode()


class Host:
    """A host's file system below a folder, and the module on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[list[str]] = []
        self.answer = (0, "", "")
        self.params: dict[str, Any] = {
            "state": "present",
            "package": PACKAGE,
            "directory": str(root / "lib/hatchery"),
            "programs": str(root / "bin"),
        }

    def settle(self, *, check: bool = False, **change: Any) -> dict[str, Any]:
        self.params |= change
        done: dict[str, Any] = cli.settle(self.params, self._run, str(self.root), check=check)
        return done

    def _run(self, argv: list[str]) -> tuple[int, str, str]:
        self.ran.append(argv)
        return self.answer

    def seen(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_package_is_what_both_programs_need_and_no_more() -> None:
    assert set(packed.PARTS) == below("cli") | below("attach") | {"cli", "attach"}
    found = {path.as_posix() for path in packed.files()}
    assert {"appliance/__init__.py", "appliance/cli/main.py", "appliance/attach/main.py", "appliance/run.py"} <= found
    assert any(name.endswith(".j2") for name in found), "the report's page"
    assert [name for name in found if "__pycache__" in name or "/service/" in name] == []
    assert packed.archive() == packed.archive()


def test_the_package_begins_with_the_roles_debian_packages_alone() -> None:
    """What else a command needs, it loads when it is needed, and says so where it is not there."""
    defaults = yaml.safe_load((ROOT / "roles/hypervisor/defaults/main.yml").read_text(encoding="utf-8"))
    there = {name.removeprefix("python3-") for name in defaults["hypervisor_cli_packages"]}
    needed = set()
    for file in (ROOT / path for path in packed.files() if path.suffix == ".py"):
        for line in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [line.module or ""] if isinstance(line, ast.ImportFrom) else []
            names += [name.name for name in line.names] if isinstance(line, ast.Import) else []
            needed |= {name.partition(".")[0] for name in names}
    assert needed - set(sys.stdlib_module_names) - {"appliance"} == there


def test_the_programs_are_written_once(host: Host) -> None:
    planned = host.settle(check=True)
    assert planned["changed"]
    assert (host.seen(), host.ran) == ({}, [])
    done = host.settle()
    assert done == planned
    assert done["programs"] == [str(host.root / "bin/hatchery"), str(host.root / "bin/hatchery-attach")]
    assert len(host.ran) == 2, "each is tried"
    program = host.root / "bin/hatchery"
    assert program.stat().st_mode & 0o7777 == 0o755
    assert "from appliance.cli.main import main" in program.read_text()
    assert str(host.root / "lib/hatchery") in program.read_text()
    main = host.root / "lib/hatchery/appliance/cli/main.py"
    assert main.read_bytes() == (Path(packed.__file__).parent / "cli/main.py").read_bytes()
    before = host.seen()
    for check in (True, False):
        again = host.settle(check=check)
        assert (again["changed"], again["diff"]) == (False, {"before": "", "after": ""})
    assert (host.seen(), len(host.ran)) == (before, 2)


def test_another_version_replaces_the_one_before_as_a_whole(host: Host) -> None:
    host.settle(package=package(appliance__old__gone=b"1", appliance__words=b"1"))
    cache = host.root / "lib/hatchery/appliance/cli/__pycache__"
    cache.mkdir()
    (cache / "main.cpython-313.pyc").write_bytes(b"python's own")
    (host.root / "lib/hatchery/appliance/old/__pycache__").mkdir()
    fresh = package(appliance__words=b"2")
    planned = host.settle(check=True, package=fresh)
    assert (host.root / "lib/hatchery/appliance/old/gone").exists()
    done = host.settle()
    assert done == planned
    assert "old/gone" in done["diff"]["before"]
    assert not (host.root / "lib/hatchery/appliance/old").exists()
    assert (host.root / "lib/hatchery/appliance/words").read_bytes() == b"2"
    assert (cache / "main.cpython-313.pyc").exists()
    assert not host.settle()["changed"]


def test_what_does_not_run_there_is_not_written(host: Host) -> None:
    host.answer = (1, "", "Traceback\nModuleNotFoundError: No module named 'typer'\n")
    with pytest.raises(cli.Wrong) as caught:
        host.settle()
    assert "No module named 'typer'" in caught.value.words["why"]
    assert "hypervisor_cli" in caught.value.words["hint"]
    assert host.seen() == {}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("no archive", "cannot be unpacked"),
        (base64.b64encode(b"no archive").decode(), "cannot be unpacked"),
        (package(etc__passwd=b""), "it has etc/passwd"),
        (package(**{"appliance__..__..__x": b""}), "it has appliance/../../x"),
        (base64.b64encode(lzma.compress(bytes(10240))).decode(), "the programs are not in it"),
    ],
)
def test_a_package_that_is_none_is_refused(host: Host, given: str, why: str) -> None:
    with pytest.raises(cli.Wrong) as caught:
        host.settle(package=given)
    assert why in caught.value.words["why"]
    assert host.seen() == {}


def test_a_folder_with_something_else_in_it_is_left_alone(host: Host) -> None:
    (host.root / "lib/hatchery").mkdir(parents=True)
    (host.root / "lib/hatchery/notes").write_text("mine")
    for state in ("present", "absent"):
        with pytest.raises(cli.Wrong) as caught:
            host.settle(state=state)
        assert "notes" in caught.value.words["why"]
    assert host.seen() == {"lib/hatchery/notes": b"mine"}


def test_all_of_it_goes(host: Host) -> None:
    host.settle()
    (host.root / "bin/other").write_text("not ours")
    (host.root / "lib/hatchery/appliance/__pycache__").mkdir()
    (host.root / "lib/hatchery/appliance/__pycache__/run.pyc").write_bytes(b"")
    assert host.settle(check=True, state="absent")["changed"]
    assert len(host.seen()) > 10
    assert host.settle(state="absent")["changed"]
    assert host.seen() == {"bin/other": b"not ours"}
    assert not (host.root / "lib/hatchery").exists()
    assert not host.settle(state="absent")["changed"]
