"""Ansible module: TCP clients of a Hatchery appliance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, appliance

if MISSING is None:
    from appliance.schema import ClientSpec

if TYPE_CHECKING:
    from appliance.client import Client

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
    description: Shows the clients that are made or changed, before and after.
    support: full
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


OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": 10809},
    "plain": {"type": "bool", "default": False},
    "max_connections": {"type": "int", "default": 1000},
}


def settle(api: Client, clients: list[dict[str, Any]], *, check: bool) -> dict[str, Any]:
    """Make or change the clients; return what the task reports. With ``check`` it only says what it would do."""
    present = {client.name: client for client in api.clients()}
    touched: list[str] = []
    before, after = "", ""
    for wanted in clients:
        name = wanted["name"]
        spec = ClientSpec(transport="tcp", **{key: wanted[key] for key in OPTIONS if key != "name"})
        old = present.get(name)
        was = old and ClientSpec.model_validate(old.model_dump(include=set(ClientSpec.model_fields)))
        if was == spec:
            continue
        touched.append(name)
        before += f"{name}: {words(was)}\n" if was else ""
        after += f"{name}: {words(spec)}\n"
        if not check:
            api.put_client(name, spec)
    return {"changed": bool(touched), "clients": touched, "diff": {"before": before, "after": after}}


def words(spec: ClientSpec) -> str:
    """A client in a line of a diff."""
    return ", ".join(f"{key} {value}" for key, value in spec.model_dump(mode="json", exclude_none=True).items())


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"clients": {"type": "list", "elements": "dict", "required": True, "options": OPTIONS}},
        supports_check_mode=True,
    )
    with appliance(module) as api:
        result = settle(api, module.params["clients"], check=module.check_mode)
    module.exit_json(changed=result["changed"], clients=result["clients"], diff=result["diff"])


if __name__ == "__main__":
    main()
