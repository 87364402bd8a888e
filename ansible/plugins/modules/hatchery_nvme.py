"""Ansible module: the NVMe drives of a Hatchery appliance."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import set_up, size_in_bytes

DOCUMENTATION = r"""
module: hatchery_nvme
short_description: Partition the NVMe drives of a Hatchery appliance
description:
  - Makes the partitions for metadata, cache and fast pool in the free space of an NVMe drive, or of two.
  - Other partitions are never touched. A drive that holds something foreign is refused, unless its serial number is
    given in O(wipe).
  - Runs C(hatchery-store setup nvme) on the appliance, in check mode with C(--check).
author:
  - Hatchery authors (@hatchery)
options:
  devices:
    description: The drive, or the two that mirror the cache, by their paths in C(/dev/disk/by-id).
    type: list
    elements: str
    required: true
  meta_size:
    description:
      - Size of the partition for metadata, such as C(18 GiB).
      - Empty for 2 % of the drive, from 256 MiB to 18 GiB.
    type: str
    default: ""
  fast_size:
    description:
      - Size of the partition for the fast pool, such as C(100 GiB).
      - Empty for a quarter of the drive's free space. What is left is the cache.
    type: str
    default: ""
  wipe:
    description: Serial numbers of drives whose foreign content may be destroyed.
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
- name: Partition the NVMe drive
  hatchery_nvme:
    devices:
      - /dev/disk/by-id/nvme-Samsung_SSD_990_PRO_2TB_S7KHNJ0W100001
"""

RETURN = r"""
steps:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"action": "partition", "target": "/dev/disk/by-id/nvme-X", "detail": "hatchery-cache, 1.4 TiB"}]
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
            "devices": {"type": "list", "elements": "str", "required": True},
            "meta_size": {"type": "str", "default": ""},
            "fast_size": {"type": "str", "default": ""},
            "wipe": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        spec = {
            "devices": module.params["devices"],
            "meta_bytes": size_in_bytes(module.params["meta_size"]),
            "fast_bytes": size_in_bytes(module.params["fast_size"]),
            "wipe": module.params["wipe"],
        }
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**set_up(module, "nvme", spec))


if __name__ == "__main__":
    main()
