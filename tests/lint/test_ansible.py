"""Playbooks, roles and modules: style, and documentation that is true."""

import ast
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import yaml

from appliance.config import CacheMode, RaidLevel
from appliance.model import ImageFormat
from appliance.run import Completed, Runner
from appliance.service import nvme_doors
from tests.lint.files import ROOT, short
from tests.terminal import answered

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


PLAYBOOKS = sorted(
    str(file.relative_to(ROOT / "ansible").with_suffix(""))
    for file in (*(ROOT / "ansible").glob("*.yml"), *(ROOT / "ansible/examples").glob("*.yml"))
    if file.name != "galaxy.yml"
)


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbook_syntax(playbook: str) -> None:
    done = play(playbook, ROOT / "ansible/inventories/example", "--syntax-check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("answer", "words"), [("", "the serial number of every drive"), ("S1 S2", "hatchery-store")])
def test_removing_asks_for_the_serial_numbers_on_a_terminal(answer: str, words: str, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(yaml.safe_dump({"hatchery": {"hosts": {"box": here}}}))
    argv: list[str | Path] = [BIN / "ansible-playbook", "--inventory", inventory, "--check", "ansible/remove.yml"]
    done = answered(Runner({"ANSIBLE_NOCOLOR": "1"}), argv, "Serial numbers of all NVMe drives and disks", answer)
    assert done.returncode != 0
    # With an answer it goes on to the module, whose program this machine has not.
    assert words in " ".join(done.stdout.split())


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
    # Packages are installed on hosts of guests, never on an appliance.
    allowed = {"ansible.builtin.import_tasks"} | ({"ansible.builtin.package"} if role.name == "hypervisor" else set())
    foreign = {key for key in used if "." in key} - allowed
    assert used & ours
    assert not foreign


class Asked(Exception):
    """What a module told Ansible that it takes: the end of the road for it here."""


def ask(**words: Any) -> NoReturn:
    raise Asked(words)


def loaded(module: Path) -> ModuleType:
    """A module as Python has it, with ours at the place where Ansible puts what modules share."""
    for file in sorted((ROOT / "ansible/plugins/module_utils").glob("*.py")):
        _load(file, f"ansible.module_utils.{file.stem}")
    return _load(module, f"lint_of_{module.stem}")


def _load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def taken(module: ModuleType) -> dict[str, Any]:
    """What the module's main function hands to AnsibleModule."""
    vars(module)["AnsibleModule"] = ask
    with pytest.raises(Asked) as caught:
        module.main()
    (words,) = caught.value.args
    found: dict[str, Any] = words
    return found


def facts(options: dict[str, Any]) -> dict[str, Any]:
    """Of each option what its documentation and its specification must agree on."""
    return {
        name: {
            "type": option["type"],
            "elements": option.get("elements"),
            "required": option.get("required", False),
            "default": option.get("default"),
            "choices": option.get("choices"),
            "options": facts(option.get("suboptions") or option.get("options") or {}),
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("module", MODULES, ids=short)
def test_a_module_documents_the_arguments_it_takes(module: Path) -> None:
    found = loaded(module)
    documented = yaml.safe_load(found.DOCUMENTATION)
    assert documented["module"] == module.stem
    specified = taken(found)
    assert specified["supports_check_mode"] is True
    assert documented["attributes"]["check_mode"]["support"] == "full"
    assert facts(specified["argument_spec"]) == facts(documented["options"])
    for task in yaml.safe_load(found.EXAMPLES):
        assert set(task[module.stem]) <= set(specified["argument_spec"])


@pytest.mark.parametrize("module", MODULES, ids=short)
def test_a_module_documents_what_it_returns(module: Path) -> None:
    returned = yaml.safe_load(loaded(module).RETURN)
    for name, value in returned.items():
        assert {"description", "returned", "type", "sample"} <= set(value), name
        assert (value["type"] == "list") == ("elements" in value), name
    assert returned["error"]["returned"] == "failure"
    # What ends a task well is in main, or comes from what our modules share.
    source = module.read_text(encoding="utf-8")
    given = {
        keyword.arg
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "exit_json"
        for keyword in node.keywords
        if keyword.arg
    }
    planned = "set_up(" in source or "remove(" in source
    if planned:
        given |= {"steps", "diff"}
    assert given - {"changed", "diff"} <= set(returned)
    assert given, "nothing is returned"
    diff = "full" if planned or "diff" in given else "none"
    assert yaml.safe_load(loaded(module).DOCUMENTATION)["attributes"]["diff_mode"]["support"] == diff


@pytest.mark.parametrize("role", ROLES, ids=short)
def test_a_role_takes_what_its_module_takes(role: Path) -> None:
    options = load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    modules = {module.stem: module for module in MODULES}
    compared = 0
    for task in load(role / "tasks/main.yml"):
        for name in set(task) & set(modules):
            specified = facts(taken(loaded(modules[name]))["argument_spec"])
            for parameter, template in task[name].items():
                variable = str(template).removeprefix("{{ ").removesuffix(" }}")
                if variable in options:
                    mine, its = facts(options)[variable], specified[parameter]
                    same = (
                        ("type", "elements", "choices")
                        if its["required"]
                        else ("type", "elements", "choices", "default")
                    )
                    assert {key: mine[key] for key in same} == {key: its[key] for key in same}, variable
                    assert set(mine["options"]) == set(its["options"]), variable
                    compared += 1
    assert compared


def test_levels_modes_and_formats_are_the_appliances() -> None:
    backend, store, template = (
        taken(loaded(ROOT / f"ansible/plugins/modules/hatchery_{name}.py"))["argument_spec"]
        for name in ("backend", "store", "template")
    )
    assert backend["level"]["choices"] == list(RaidLevel)
    assert store["cache_mode"]["choices"] == list(CacheMode)
    assert template["templates"]["options"]["format"]["choices"] == list(ImageFormat)
    minimum = load(ROOT / "roles/backend_raid/vars/main.yml")["__backend_raid_minimum"]
    assert minimum == {level.value: level.minimum_disks for level in RaidLevel}


def test_a_hosts_key_is_never_shown(tmp_path: Path) -> None:
    """Check mode on this machine: all that the role would do for NVMe/TCP is told, at length, and the key is not."""
    key = nvme_doors.new_key()
    (tmp_path / "nvme-dhchap-key").write_text(f"{key}\n")
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "hypervisor_nvme_key": str(tmp_path),
        "hypervisor_nvme_host_nqn": "nqn.2014-08.org.nvmexpress:uuid:6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10",
        "hypervisor_nvme_package": "",
        "hypervisor_cli": False,
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": variables}}}))
    book = tmp_path / "book.yml"
    book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": ["hypervisor"]}]))
    environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    argv: list[str | Path] = [BIN / "ansible-playbook", "-vvv", "--check", "--diff", "-i", tmp_path / "hosts.yml", book]
    done = Runner(environment).run(argv, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\+/etc/hatchery/nvme\.json \S+ 0600 (another )?key\n", done.stdout), done.stdout
    assert "+ExecStart=/usr/bin/udevadm wait --removed ${DEVICE}" in done.stdout
    assert re.search(r"host_id: 6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10\n", done.stdout), done.stdout
    assert "key: VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in done.stdout
    assert key.split(":")[2] not in done.stdout + done.stderr
