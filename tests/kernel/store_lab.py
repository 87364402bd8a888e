"""What tests of the whole store share: its program's answers."""

import json
from typing import Any

from tests.kernel.inside import setup
from tests.kernel.lab import Lab


def program(lab: Lab, part: str, *options: str, **changes: object) -> dict[str, Any]:
    """Run ``hatchery-store setup``, which must succeed: its JSON answer."""
    spec = {**lab.call(setup.specs)[part], **changes}
    words = ["hatchery-store", "setup", part, "--spec", "-", "--json", *options]
    found: dict[str, Any] = json.loads(lab.run(words, stdin=json.dumps(spec), timeout=180).stdout)
    return found


def refused(lab: Lab, part: str, *options: str, **changes: object) -> dict[str, str]:
    """Run ``hatchery-store setup``, which must refuse: its error."""
    spec = {**lab.call(setup.specs)[part], **changes}
    words = ["hatchery-store", "setup", part, "--spec", "-", "--json", *options]
    done = lab.run(words, stdin=json.dumps(spec), timeout=180, check=False)
    assert done.returncode == 2, done.stdout
    found: dict[str, str] = json.loads(done.stdout)["error"]
    return found


def actions(answer: dict[str, Any]) -> list[str]:
    """The steps of an answer: what was done to what."""
    return [f"{step['action']} {step['target']}" for step in answer["steps"]]


MAKING = ("create", "partition", "format")
"""How steps begin after which nothing is left of what was there."""


def set_up_again(lab: Lab, *, forgotten: bool, **changes: object) -> None:
    """Stop the store and set it up, as after a start that failed; it is to be taken as it is.

    ``forgotten``: by a system that begins anew, whose settings are gone. ``changes``: to what the store is made of.
    """
    lab.run(["sh", "-c", "echo kept > /var/lib/hatchery/word && sync"])
    lab.run(["hatchery-store", "down"])
    if forgotten:
        lab.run(["rm", "-r", "/etc/hatchery/conf.d"])
    for part in lab.call(setup.specs):
        for options in (("--check",), ()):
            said = actions(program(lab, part, *options, **(changes if part == "store" else {})))
            assert not [step for step in said if step.split()[0] in MAKING], said
    assert lab.run(["cat", "/var/lib/hatchery/word"]).stdout == "kept\n"


def up(lab: Lab) -> str:
    """Start the store; what it said."""
    return lab.run(["hatchery-store", "up"], timeout=120).stderr


def health(lab: Lab) -> dict[str, Any]:
    """How the store is."""
    found: dict[str, Any] = json.loads(lab.run(["hatchery-store", "status", "--json"]).stdout)
    return found


def problems(lab: Lab) -> str:
    """What is wrong with the store, in words."""
    return "; ".join(problem["what"] for problem in health(lab)["problems"])


def blank_disk(lab: Lab, number: int) -> None:
    """An empty disk in the place of one; the machine is off."""
    disk = lab.disk(number)
    size = disk.stat().st_size
    disk.unlink()
    with disk.open("wb") as file:
        file.truncate(size)
