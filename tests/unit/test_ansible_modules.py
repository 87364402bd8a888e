"""The part of Ansible's modules that is ours alone: sizes, and what the appliance's answers become."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "ansible/plugins"


def load(file: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PLUGINS / file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    # Modules find each other by the names that Ansible gives them.
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


utils = load("module_utils/hatchery.py", "ansible.module_utils.hatchery")
load("module_utils/hatchery_api.py", "ansible.module_utils.hatchery_api")
load("module_utils/hatchery_files.py", "ansible.module_utils.hatchery_files")


class FailedTask(Exception):
    """A task that ended with fail_json."""


class Task:
    """What a module sees of Ansible, with a program that gives a fixed answer."""

    def __init__(self, status: int, stdout: str, *, check_mode: bool = False) -> None:
        self.check_mode = check_mode
        self.answer = (status, stdout, "some words on stderr")
        self.ran: list[list[str]] = []
        self.given = ""
        self.warnings: list[str] = []

    def get_bin_path(self, name: str, **_: object) -> str:
        return f"/usr/sbin/{name}"

    def run_command(self, argv: list[str], data: str) -> tuple[int, str, str]:
        self.ran.append(argv)
        self.given = data
        return self.answer

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def fail_json(self, msg: str, **_: object) -> NoReturn:
        raise FailedTask(msg)


DONE = {
    "changed": True,
    "steps": [{"action": "make", "target": "x", "detail": ""}],
    "config_diff": {"before": "a", "after": "b"},
}


def refusal(code: str) -> str:
    return json.dumps({"error": {"code": code, "what": "sda is refused", "why": "it holds ext4", "hint": "wipe it"}})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("0", 0),
        ("512", 512),
        ("4 KiB", 4096),
        ("256MiB", 256 << 20),
        ("18 GiB", 18 << 30),
        (" 2 TiB ", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert utils.size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["18 GB", "-1", "1.5 GiB", "GiB", "10 gib", "1 GiB 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        utils.size_in_bytes(text)


def set_up(task: Task) -> dict[str, Any]:
    result: dict[str, Any] = utils.set_up(task, "nvme", {"devices": ["d"]})
    return result


def test_an_answer_becomes_the_tasks_result() -> None:
    task = Task(0, json.dumps(DONE))
    assert set_up(task) == {"changed": True, "steps": DONE["steps"], "diff": {"before": "a", "after": "b"}}
    assert task.ran == [["/usr/sbin/hatchery-store", "setup", "nvme", "--spec", "-", "--json"]]
    assert json.loads(task.given) == {"devices": ["d"]}


def test_check_mode_is_the_appliances_own() -> None:
    task = Task(0, json.dumps(DONE), check_mode=True)
    set_up(task)
    assert task.ran[0][-1] == "--check"


def test_a_refusal_says_what_why_and_what_to_do() -> None:
    with pytest.raises(FailedTask) as caught:
        set_up(Task(2, refusal("refused")))
    assert str(caught.value) == "sda is refused: it holds ext4 (wipe it)"


def test_a_part_without_foundations_would_change_in_check_mode_and_fails_otherwise() -> None:
    task = Task(2, refusal("not-ready"), check_mode=True)
    assert set_up(task)["changed"] is True
    assert task.warnings
    with pytest.raises(FailedTask):
        set_up(Task(2, refusal("not-ready")))
    with pytest.raises(FailedTask):
        set_up(Task(2, refusal("refused"), check_mode=True))


def test_an_unreadable_answer_is_an_error() -> None:
    with pytest.raises(FailedTask, match="some words on stderr"):
        set_up(Task(1, "Traceback"))


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_removal_names_every_serial_number(check_mode: bool) -> None:
    task = Task(0, json.dumps(DONE), check_mode=check_mode)
    assert utils.remove(task, ["S1", "S2"], lose_attached=check_mode)["changed"] is True
    words = ["--serial=S1", "--serial=S2", *(["--lose-attached-clones"] if check_mode else [])]
    assert task.ran == [["/usr/sbin/hatchery-store", "remove", *words, "--json", *(["--check"] if check_mode else [])]]
    with pytest.raises(FailedTask, match="sda is refused"):
        utils.remove(Task(2, refusal("refused"), check_mode=check_mode), ["S1"], lose_attached=False)
