"""What Hatchery's modules share: they state what is wanted and call one verb of the appliance.

Planning, comparing and refusing happen once, in the appliance; so check mode and diff are true by construction.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

STORE_PROGRAM = "hatchery-store"

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*(|KiB|MiB|GiB|TiB)")


def size_in_bytes(text: str) -> int:
    """Turn ``18 GiB`` or ``1048576`` into bytes; an empty string is 0. Raises ValueError."""
    if not text:
        return 0
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size: write a whole number and KiB, MiB, GiB or TiB, such as '18 GiB'")
    return int(match.group(1)) * _UNITS[match.group(2)]


def fail(module: AnsibleModule, error: dict[str, str]) -> NoReturn:
    """End the task with an error of the appliance: what failed, why, and what to do."""
    message = error["what"]
    if error.get("why"):
        message += f": {error['why']}"
    if error.get("hint"):
        message += f" ({error['hint']})"
    module.fail_json(msg=message, error=error)
    raise AssertionError("fail_json returned")


def set_up(module: AnsibleModule, part: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Run ``hatchery-store setup`` for one part of the store; return what the task reports.

    In check mode a part whose foundations are not there yet cannot be planned: that it would change is all that can
    be said.
    """
    answer = _ask(module, ["setup", part, "--spec", "-"], json.dumps(spec))
    if error := answer.get("error"):
        if module.check_mode and error["code"] == "not-ready":
            module.warn(f"{part} cannot be planned before what it stands on is set up: {error['what']}")
            return {"changed": True, "steps": [], "diff": {"before": "", "after": ""}}
        fail(module, error)
    return _result(answer)


def remove(module: AnsibleModule, serials: list[str], *, lose_attached: bool) -> dict[str, Any]:
    """Run ``hatchery-store remove``; return what the task reports."""
    words = [f"--serial={serial}" for serial in serials]
    if lose_attached:
        words.append("--lose-attached-clones")
    answer = _ask(module, ["remove", *words])
    if error := answer.get("error"):
        fail(module, error)
    return _result(answer)


def _ask(module: AnsibleModule, words: list[str], given: str = "") -> dict[str, Any]:
    """The answer of one verb of the appliance's program; in check mode it only says what it would do."""
    program = module.get_bin_path(STORE_PROGRAM, required=True, opt_dirs=["/usr/sbin"])
    argv = [program, *words, "--json", *(["--check"] if module.check_mode else [])]
    status, stdout, stderr = module.run_command(argv, data=given)
    try:
        answer: dict[str, Any] = json.loads(stdout)
    except ValueError:
        module.fail_json(
            msg=f"{STORE_PROGRAM} {words[0]} ended with status {status} and no readable answer: {stderr.strip()}",
            stdout=stdout,
            stderr=stderr,
            rc=status,
        )
        raise AssertionError("fail_json returned") from None
    return answer


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    return {"changed": answer["changed"], "steps": answer["steps"], "diff": answer["config_diff"]}
