"""Ansible module: the version of a Hatchery appliance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, explain

if MISSING is None:
    from appliance import rollout
    from appliance.errors import HatcheryError
    from appliance.run import Runner

DOCUMENTATION = r"""
module: hatchery_update
short_description: Update a Hatchery appliance and wait until it was found good
description:
  - Copies an update bundle to the appliance, or has the appliance fetch it from a URL, has it verified there and
    written to the slot that does not run, restarts the appliance, and waits until the new version was found good.
  - When the appliance falls back to the version that ran before, the task fails and says why. So do all refusals, and
    nothing has changed then.
  - Runs on the machine that runs Ansible, and reaches the appliance through SSH.
author:
  - Hatchery authors (@hatchery)
options:
  host:
    description: The appliance as C(USER@HOST).
    type: str
    required: true
  ssh_options:
    description: Further options for C(ssh), written and quoted as on a shell's command line.
    type: str
    default: ""
  bundle:
    description: The folder that C(script/image bundle) made, on the machine that runs Ansible. Either this or I(url).
    type: path
  url:
    description: The https URL of such a folder, as the appliance reaches it.
    type: str
  ca:
    description: With I(url), a file with the authority of the server's certificate in PEM, which is sent along.
    type: path
  plain_http:
    description: With I(url), accept http. The bundle's signature is verified in any case.
    type: bool
    default: false
  again:
    description: Try a version again that this appliance has given up.
    type: bool
    default: false
  older:
    description: Accept a version that is older than the one that runs.
    type: bool
    default: false
  no_way_back:
    description: Accept a version that changes the catalog, so that the one before cannot open it any more.
    type: bool
    default: false
  unhealthy:
    description: Update an appliance that would not be found good as it is, since the new version mends it.
    type: bool
    default: false
  deadline:
    description: Seconds that the restart may take, and the trial after it.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Reports the appliance's own plan, made from the bundle's signed description, and changes nothing.
    support: full
  diff_mode:
    description: Shows the version before and after.
    support: full
"""

EXAMPLES = r"""
- name: Update the appliance
  hatchery_update:
    host: root@box.example.net
    bundle: bundles/hatchery_0.2.0
  delegate_to: localhost

- name: Have the appliance fetch it
  hatchery_update:
    host: root@box.example.net
    url: https://updates.example.net/hatchery_0.2.0/
  delegate_to: localhost
"""

RETURN = r"""
version:
  description: The version that runs, or would run in check mode.
  returned: success
  type: str
  sample: 0.2.0
steps:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "write", "target": "version 0.2.0", "detail": "to the second slot, with 3 tries"}]
error:
  description: Why it was refused, or why the new version was given up.
  returned: failure
  type: dict
  sample: {"code": "unhealthy", "what": "version 0.2.0 was given up", "why": "...", "hint": "..."}
"""

WORDS = {"again": "--again", "older": "--older", "no_way_back": "--no-way-back", "unhealthy": "--unhealthy"}
"""Options that are words of ``hatchery-update``."""


def wanted_bundle(params: dict[str, Any]) -> Path | rollout.Url:
    """Where the bundle is, out of the module's parameters."""
    if params["bundle"]:
        return Path(params["bundle"])
    return rollout.Url(params["url"], Path(params["ca"]) if params["ca"] else None, params["plain_http"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "ssh_options": {"type": "str", "default": ""},
            "bundle": {"type": "path"},
            "url": {"type": "str"},
            "ca": {"type": "path"},
            "plain_http": {"type": "bool", "default": False},
            "again": {"type": "bool", "default": False},
            "older": {"type": "bool", "default": False},
            "no_way_back": {"type": "bool", "default": False},
            "unhealthy": {"type": "bool", "default": False},
            "deadline": {"type": "int", "default": 3600},
        },
        mutually_exclusive=[["bundle", "url"], ["bundle", "ca"]],
        required_one_of=[["bundle", "url"]],
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg="Hatchery's Python package is not installed beside this Python: run script/bootstrap and use"
            " .venv/bin/ansible-playbook",
            exception=MISSING,
        )
    if module.params["ssh_options"]:
        os.environ["HATCHERY_SSH_OPTIONS"] = module.params["ssh_options"]
    words = tuple(word for option, word in WORDS.items() if module.params[option])
    wish = rollout.Wish(wanted_bundle(module.params), words, float(module.params["deadline"]))
    appliance = rollout.Appliance(module.params["host"], Runner())
    try:
        done = rollout.check(appliance, wish) if module.check_mode else rollout.update(appliance, wish)
    except HatcheryError as error:
        explain(module, error)
    module.exit_json(
        changed=done.changed,
        version=done.after,
        steps=list(done.steps),
        diff={"before": f"version {done.before}\n", "after": f"version {done.after}\n"},
    )


if __name__ == "__main__":
    main()
