"""Ansible module: TCP clients of a Hatchery appliance."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, appliance

if MISSING is None:
    from appliance.schema import ClientSpec

DOCUMENTATION = r"""
module: hatchery_client
short_description: Let clients reach their clones over TCP
description:
  - Makes clients of a Hatchery appliance that attach clones over NBD on TCP, by TLS with a certificate or by plain NBD.
    The latter is neither encrypted nor authenticated, so whoever reaches the port may read and write the clones of that
    client.
  - Certificates are not made here, for their keys are handed out once. C(hatchery client certificate) makes them.
  - Clients that are not named here stay as they are.
author:
  - Hatchery authors (@hatchery)
options:
  clients:
    description: The clients.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The client's name.
        type: str
        required: true
      address:
        description: An address of the appliance to listen on.
        type: str
        required: true
      port:
        description: The port to listen on.
        type: int
        default: 10809
      plain:
        description: Plain NBD instead of TLS.
        type: bool
        default: false
      max_connections:
        description: How many connections may be open at a time, to all of its clones together.
        type: int
        default: 1000
attributes:
  check_mode:
    description: Reports the clients that it would make or change and touches none.
    support: full
  diff_mode:
    description: No diff is made.
    support: none
"""

EXAMPLES = r"""
- name: Let a hypervisor attach clones by TLS, and the laboratory's without encryption
  hatchery_client:
    clients:
      - name: hv1
        address: 192.0.2.10
        port: 10809
      - name: lab
        address: 192.0.2.10
        port: 10810
        plain: true
"""

RETURN = r"""
clients:
  description: The clients that were made or changed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [lab]
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "in-use", "what": "...", "why": "...", "hint": "..."}
"""


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 10809},
        "plain": {"type": "bool", "default": False},
        "max_connections": {"type": "int", "default": 1000},
    }
    module = AnsibleModule(
        argument_spec={"clients": {"type": "list", "elements": "dict", "required": True, "options": options}},
        supports_check_mode=True,
    )
    touched: list[str] = []
    with appliance(module) as api:
        present = {client.name: client for client in api.clients()}
        for wanted in module.params["clients"]:
            spec = ClientSpec(transport="tcp", **{key: wanted[key] for key in options if key != "name"})
            old = present.get(wanted["name"])
            if old and ClientSpec.model_validate(old.model_dump(include=set(ClientSpec.model_fields))) == spec:
                continue
            touched.append(wanted["name"])
            if not module.check_mode:
                api.put_client(wanted["name"], spec)
    module.exit_json(changed=bool(touched), clients=touched)


if __name__ == "__main__":
    main()
