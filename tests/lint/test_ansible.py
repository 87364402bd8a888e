"""Playbooks, roles and modules: style, documented variables, and refusals before anything is touched."""

import ast
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.run import Completed, Runner
from tests.lint.files import ROOT, short

ROLES = sorted(folder for folder in (ROOT / "roles").iterdir() if folder.is_dir())
MODULES = sorted((ROOT / "ansible/plugins/modules").glob("*.py"))
BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible reads ansible.cfg in the current folder, and its linter looks for ansible on PATH."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def play(name: str, inventory: Path, *words: str) -> Completed:
    argv: list[str | Path] = [BIN / "ansible-playbook", "--inventory", inventory, *words, f"ansible/{name}.yml"]
    return Runner().run(argv, timeout=120, check=False)


def test_yamllint() -> None:
    done = Runner().run([sys.executable, "-m", "yamllint", "--strict", "."], check=False)
    assert done.returncode == 0, done.stdout


def test_ansible_lint() -> None:
    argv: list[str | Path] = [BIN / "ansible-lint", "--offline", "--nocolor"]
    done = Runner({"ANSIBLE_NOCOLOR": "1"}).run(argv, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("playbook", ["deploy", "templates", "update"])
def test_playbook_syntax(playbook: str) -> None:
    done = play(playbook, ROOT / "ansible/inventories/example", "--syntax-check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES, ids=short)
def test_a_role_is_complete(role: Path) -> None:
    for name in ("README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/preflight.yml"):
        assert (role / name).is_file(), f"{short(role)} has no {name}"


@pytest.mark.parametrize("role", ROLES, ids=short)
def test_variables_are_documented_with_their_defaults(role: Path) -> None:
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    documented = {name: option.get("default") for name, option in options.items()}
    assert documented == load(role / "defaults/main.yml")
    assert all(name.startswith(f"{role.name}_") for name in documented)
    assert all(option["description"] for option in options.values())


@pytest.mark.parametrize("role", ROLES, ids=short)
def test_a_role_changes_the_appliance_through_our_modules_alone(role: Path) -> None:
    ours = {module.stem for module in MODULES}
    used = {key for task in load(role / "tasks/main.yml") for key in task}
    foreign = {key for key in used if "." in key} - {"ansible.builtin.import_tasks"}
    assert used & ours
    assert not foreign


@pytest.mark.parametrize("module", MODULES, ids=short)
def test_a_module_documents_the_arguments_it_takes(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    texts = {
        target.id: yaml.safe_load(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert {"DOCUMENTATION", "EXAMPLES", "RETURN"} <= set(texts)
    documented = texts["DOCUMENTATION"]
    assert documented["module"] == module.stem
    specs = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "argument_spec"
    ]
    assert len(specs) == 1
    assert isinstance(specs[0], ast.Dict)
    taken = {key.value for key in specs[0].keys if isinstance(key, ast.Constant)}
    assert taken == set(documented["options"])
    for task in texts["EXAMPLES"]:
        assert set(task[module.stem]) <= taken


GOOD: dict[str, Any] = {
    "ansible_connection": "local",
    "nvme_cache_devices": ["/dev/disk/by-id/nvme-X"],
    "backend_raid_disks": [f"/dev/disk/by-id/ata-{n}" for n in range(3)],
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no NVMe drive": ({"nvme_cache_devices": []}, "nvme_cache_devices must name one drive"),
    "NVMe drive by kernel name": ({"nvme_cache_devices": ["/dev/nvme0n1"]}, "must name one drive by its path"),
    "disks by kernel name": ({"backend_raid_disks": ["/dev/sda", "/dev/sdb", "/dev/sdc"]}, "must name each disk once"),
    "the same disk twice": ({"backend_raid_disks": ["/dev/disk/by-id/a"] * 3}, "must name each disk once"),
    "too few disks": ({"backend_raid_disks": ["/dev/disk/by-id/a", "/dev/disk/by-id/b"]}, "raid5 needs 3 disks"),
    "unknown level": ({"backend_raid_level": "raid0"}, "raid0"),
    "two clients of one name": (
        {"clone_store_plain_clients": [{"name": "a", "address": "192.0.2.1", "port": p} for p in (1, 2)]},
        "needs a name of its own",
    ),
    "two clients on one port": (
        {"clone_store_plain_clients": [{"name": n, "address": "192.0.2.1"} for n in ("a", "b")]},
        "needs a name of its own",
    ),
    "too large a reserve": ({"clone_store_reserve_percent": 51}, "goes from 0 to 50"),
    "writearound": ({"clone_store_cache_mode": "writearound"}, "writearound"),
    "template with two sources": (
        {"clone_templates_items": [{"name": "t", "format": "raw", "src": "a", "url": "http://b"}]},
        "exactly one of src, url and path",
    ),
    "template without a format": ({"clone_templates_items": [{"name": "t", "src": "a"}]}, "format"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_variables_are_refused_before_anything_runs(case: str, tmp_path: Path) -> None:
    change, words = REFUSED[case]
    role = next(name for name in (r.name for r in ROLES) if next(iter(change)).startswith(name))
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"hatchery": {"hosts": {"box": {**GOOD, **change}}}}))
    playbook = tmp_path / "play.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "hatchery", "gather_facts": False, "roles": [role]}]))
    argv: list[str | Path] = [BIN / "ansible-playbook", "--inventory", inventory, playbook]
    done = Runner({"ANSIBLE_NOCOLOR": "1"}).run(argv, timeout=120, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0, said
    assert words in said
    assert "changed=0" in said
    assert "TASK [" in said
    assert not any(f"TASK [{role} : {last}" in said for last in ("Partition", "Make", "Register", "Let"))
