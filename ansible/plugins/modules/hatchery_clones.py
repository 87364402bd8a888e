"""Ansible module: clones of a client, and how a hypervisor reaches them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, appliance

if TYPE_CHECKING:
    from appliance.client import Client

if MISSING is None:
    from appliance.errors import InUse, NotFound
    from appliance.schema import CloneCreate

DOCUMENTATION = r"""
module: hatchery_clones
short_description: Make clones for a client, and say how its clones are reached
description:
  - Makes the clones of a client that are named and missing, of a template, and returns all clones of that client with
    their addresses and their disks for libvirt.
  - A clone that is there stays as it is, whatever template it was made from. No clone is ever removed here.
  - Runs on the machine that runs Ansible, and reaches the appliance through SSH.
author:
  - Hatchery authors (@hatchery)
options:
  host:
    description: The appliance as C(USER@HOST). Without it, the appliance is the machine itself.
    type: str
    default: ""
  ssh_options:
    description: Further options for C(ssh), written and quoted as on a shell's command line.
    type: str
    default: ""
  client:
    description: The client that may attach the clones.
    type: str
    required: true
  names:
    description: Clones that there must be.
    type: list
    elements: str
    default: []
  template:
    description: What missing clones are made from, as C(NAME) or C(NAME@VERSION).
    type: str
attributes:
  check_mode:
    description: Reports the clones that it would make and makes none; they are not among those that are returned.
    support: full
  diff_mode:
    description: No diff is made.
    support: none
"""

EXAMPLES = r"""
- name: Make three clones for a hypervisor
  hatchery_clones:
    host: root@box.example.net
    client: hv1
    names: [web-1, web-2, web-3]
    template: debian-13
  delegate_to: localhost
"""

RETURN = r"""
made:
  description: The clones that were made, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [web-3]
clones:
  description:
    - The client's clones by name. Of each its I(name), its I(uri), and in I(libvirt) its disk as XML. One that is
      attached over NVMe/TCP has neither of the two; its I(nvme) says where it is, with I(nqn), I(address), I(port), and
      the I(device) that it is on the client's host.
  returned: success
  type: list
  elements: dict
  sample:
    - {"name": "web-1", "uri": "nbds://192.0.2.10:10809/web-1?tls-...", "libvirt": "<disk ...>", "nvme": null}
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "not-found", "what": "...", "why": "...", "hint": "..."}
"""


WHERE = {"nqn", "address", "port", "device"}
"""What of a clone's way over NVMe/TCP its host needs to know."""


def settle(api: Client, params: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Make the clones that are missing, or only say which; returns what the task reports. Raises HatcheryError."""
    client, template = params["client"], params["template"]
    api.client(client)
    there = {clone.name: clone.client for clone in api.clones()}
    taken = [name for name in params["names"] if there.get(name, client) != client]
    if taken:
        raise InUse(
            f"not clones of client {client}",
            why=f"there are such clones, and they are not attached to it: {', '.join(taken)}",
            hint=f"move them (`hatchery clone move {taken[0]} --client {client}`), or name others",
        )
    missing = [name for name in dict.fromkeys(params["names"]) if name not in there]
    if missing and not template:
        raise NotFound(f"there is no clone {missing[0]}", hint="name a template to make it from")
    if not check:
        for name in missing:
            api.create_clones(CloneCreate(name=name, template=template, client=client))
    mine = sorted((clone for clone in api.clones() if clone.client == client), key=lambda clone: clone.name)
    clones = [
        {
            "name": clone.name,
            "uri": clone.uri,
            "libvirt": clone.libvirt,
            "nvme": None if clone.nvme is None else clone.nvme.model_dump(include=WHERE),
        }
        for clone in mine
    ]
    return {"changed": bool(missing), "made": missing, "clones": clones}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "default": ""},
            "ssh_options": {"type": "str", "default": ""},
            "client": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "template": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if module.params["ssh_options"]:
        os.environ["HATCHERY_SSH_OPTIONS"] = module.params["ssh_options"]
    with appliance(module, module.params["host"]) as api:
        done = settle(api, module.params, check=module.check_mode)
    module.exit_json(changed=done["changed"], made=done["made"], clones=done["clones"])


if __name__ == "__main__":
    main()
