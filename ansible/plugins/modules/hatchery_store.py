"""Ansible module: cache, pool and services of a Hatchery appliance."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import set_up, size_in_bytes

DOCUMENTATION = r"""
module: hatchery_store
short_description: Make the store of a Hatchery appliance and start its services
description:
  - Makes the metadata mirror, the cache and the pool out of the partitions that M(hatchery_nvme) and
    M(hatchery_backend) made, then enables and starts the services and waits until the API answers.
  - Runs C(hatchery-store setup store) on the appliance, in check mode with C(--check).
author:
  - Hatchery authors (@hatchery)
options:
  cache_mode:
    description: Mode of the cache; C(writeback) takes two NVMe drives.
    type: str
    choices: [writethrough, writeback]
    default: writethrough
  block_kib:
    description: Block size of the pool in KiB. Cannot be changed later.
    type: int
    default: 64
  state_size:
    description: Size of the file system for the catalog, such as C(1 GiB). Empty for the appliance's own rule.
    type: str
    default: ""
  reserve_percent:
    description: Percent of the pool's data space that is held back until an operator releases it.
    type: int
    default: 5
  overcommit_percent:
    description: Sizes of all clones of a pool in percent of its data space, at most. 0 for no limit.
    type: int
    default: 0
attributes:
  check_mode:
    description: Reports the steps that it would take and takes none.
    support: full
  diff_mode:
    description: Shows the change of the appliance's settings file.
    support: full
"""

EXAMPLES = r"""
- name: Make the store and start the services
  hatchery_store:
    cache_mode: writethrough
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "start", "target": "hatcheryd.service", "detail": "was inactive"}]
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "not-ready", "what": "...", "why": "...", "hint": "..."}
"""

TARGET = "hatchery.target"
SERVICES = ("hatchery-store.service", "hatchery-retry.service", "hatcheryd.service")


def unit_states(module: AnsibleModule, systemctl: str) -> dict[str, dict[str, str]]:
    """What systemd says of our units, by name: whether each runs, and whether it starts at boot."""
    argv = [systemctl, "show", "--property=Id,ActiveState,UnitFileState", *SERVICES, TARGET]
    _, out, _ = module.run_command(argv, check_rc=True)
    units = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in out.split("\n\n")]
    return {unit["Id"]: unit for unit in units if "Id" in unit}


def start_services(module: AnsibleModule) -> list[dict[str, str]]:
    """Enable and start what does not run; return the steps. ``hatcheryd`` has started when its API answers."""
    systemctl = module.get_bin_path("systemctl", required=True)
    before = unit_states(module, systemctl)
    steps: list[dict[str, str]] = []
    if before[TARGET]["UnitFileState"] != "enabled":
        steps.append({"action": "enable", "target": TARGET, "detail": "starts at boot"})
        if not module.check_mode:
            module.run_command([systemctl, "enable", TARGET], check_rc=True)
    # The target may be active since boot with its services skipped, because nothing was set up then.
    for unit in (*SERVICES, TARGET):
        state = before[unit]["ActiveState"]
        if state == "active":
            continue
        steps.append({"action": "start", "target": unit, "detail": f"was {state}"})
        if module.check_mode:
            continue
        status, _, stderr = module.run_command([systemctl, "start", unit])
        if status != 0:
            _, log, _ = module.run_command(["journalctl", "--no-pager", "--lines=20", f"--unit={unit}"])
            module.fail_json(msg=f"{unit} did not start: {stderr.strip()}", rc=status, stdout=log, steps=steps)
    return steps


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "cache_mode": {"type": "str", "choices": ["writethrough", "writeback"], "default": "writethrough"},
            "block_kib": {"type": "int", "default": 64},
            "state_size": {"type": "str", "default": ""},
            "reserve_percent": {"type": "int", "default": 5},
            "overcommit_percent": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    try:
        spec: dict[str, Any] = {
            "cache_mode": module.params["cache_mode"],
            "block_kib": module.params["block_kib"],
            "state_bytes": size_in_bytes(module.params["state_size"]),
            "reserve_percent": module.params["reserve_percent"],
            "overcommit_percent": module.params["overcommit_percent"],
        }
    except ValueError as error:
        module.fail_json(msg=str(error))
    result = set_up(module, "store", spec)
    started = start_services(module)
    result["steps"] = [*result["steps"], *started]
    result["changed"] = result["changed"] or bool(started)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
