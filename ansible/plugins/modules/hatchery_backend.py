"""Ansible module: the backend array of a Hatchery appliance."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import set_up

DOCUMENTATION = r"""
module: hatchery_backend
short_description: Make the backend array of a Hatchery appliance
description:
  - Makes an md array of whole disks, and its partitions. Does not wait for the first synchronisation.
  - A disk that holds something foreign is refused, unless its serial number is given in O(wipe). The system's disk and
    disks that are in use are always refused.
  - Runs C(hatchery-store setup backend) on the appliance, in check mode with C(--check).
author:
  - Hatchery authors (@hatchery)
options:
  level:
    description: RAID level.
    type: str
    choices: [raid1, raid5, raid6, raid10]
    default: raid5
  disks:
    description: The disks, by their paths in C(/dev/disk/by-id).
    type: list
    elements: str
    required: true
  chunk_kib:
    description: Chunk size in KiB.
    type: int
    default: 64
  wipe:
    description: Serial numbers of disks whose foreign content may be destroyed.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Reports the steps that it would take and takes none.
    support: full
  diff_mode:
    description: Shows the change of the appliance's settings file.
    support: full
"""

EXAMPLES = r"""
- name: Make a RAID 5 of three disks
  hatchery_backend:
    level: raid5
    disks:
      - /dev/disk/by-id/ata-WDC_WD40EFRX-68N32N0_WD-WCC7K0000001
      - /dev/disk/by-id/ata-WDC_WD40EFRX-68N32N0_WD-WCC7K0000002
      - /dev/disk/by-id/ata-WDC_WD40EFRX-68N32N0_WD-WCC7K0000003
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "create array", "target": "/dev/md/hatchery-backend", "detail": "raid5 of 3 disks"}]
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "refused", "what": "...", "why": "...", "hint": "..."}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "level": {"type": "str", "choices": ["raid1", "raid5", "raid6", "raid10"], "default": "raid5"},
            "disks": {"type": "list", "elements": "str", "required": True},
            "chunk_kib": {"type": "int", "default": 64},
            "wipe": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(**set_up(module, "backend", dict(module.params)))


if __name__ == "__main__":
    main()
