"""Ansible module: the end of a Hatchery appliance's store."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import remove

DOCUMENTATION = r"""
module: hatchery_removal
short_description: Take the store of a Hatchery appliance off its drives
description:
  - Stops the services, takes the store down, erases what Hatchery made on the store's drives, and removes its settings.
    All templates and clones are lost.
  - The serial number of every drive of the store has to be given, and no other one. Without it nothing is changed.
  - Other partitions of the NVMe drives are not touched, and neither is a disk that is no member of the store's array.
  - Where no store is set up, nothing is changed. A removal that was cut off is finished by running it again.
  - Runs C(hatchery-store remove) on the appliance, in check mode with C(--check).
author:
  - Hatchery authors (@hatchery)
options:
  serials:
    description: The serial numbers of all NVMe drives and disks of the store.
    type: list
    elements: str
    required: true
  lose_attached_clones:
    description: Whether the store may be removed while clones are attached. Guests that use them lose their disks.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports the steps that it would take and takes none.
    support: full
  diff_mode:
    description: Shows the appliance's settings that go.
    support: full
"""

EXAMPLES = r"""
- name: Remove the store
  hatchery_removal:
    serials:
      - S7KHNJ0W100001
      - WD-WCC7K0000001
      - WD-WCC7K0000002
      - WD-WCC7K0000003
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "erase", "target": "/dev/disk/by-id/ata-X", "detail": "a member of hatchery:backend"}]
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
            "serials": {"type": "list", "elements": "str", "required": True},
            "lose_attached_clones": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    lose = bool(module.params["lose_attached_clones"])
    module.exit_json(**remove(module, module.params["serials"], lose_attached=lose))


if __name__ == "__main__":
    main()
