"""Ansible module: clients of a Hatchery appliance over the network: by NBD on TCP, and by NVMe/TCP, too."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, appliance

if TYPE_CHECKING:
    from appliance.client import Client
    from appliance.schema import ClientView, NvmeDoorView

if MISSING is None:
    from appliance.schema import ClientSpec, NvmeSpec

DOCUMENTATION = r"""
module: hatchery_client
short_description: Let clients reach their clones over the network
description:
  - Makes clients of a Hatchery appliance that attach clones over NBD on TCP, by TLS with a certificate or by plain NBD.
    The latter is neither encrypted nor authenticated, so whoever reaches the port may read and write the clones of that
    client.
  - With I(nvme) a client's host reaches clones over NVMe/TCP as well, by its name and its key. What goes over it is not
    encrypted.
  - Certificates and keys are not made here, for they are handed out once. C(hatchery client certificate) makes them.
  - A client that is named here is as it is described, without I(nvme) if that is left out. Clients that are not named
    stay as they are.
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
      nvme:
        description:
          - Where the client's host reaches clones over NVMe/TCP. Without it there is no such way; one that was there is
            removed with the host's key, which is refused while clones are attached so.
          - Another address or port cuts off who is connected. Another host has no key yet, and is refused while
            clones are attached so.
        type: dict
        suboptions:
          address:
            description: An address of the appliance to listen on.
            type: str
            required: true
          port:
            description: The port to listen on, of this client alone.
            type: int
            default: 4420
          host_nqn:
            description: The NQN of the one host that is let in, as in its C(/etc/nvme/hostnqn).
            type: str
            required: true
attributes:
  check_mode:
    description: Reports the clients that it would make or change and touches none.
    support: full
  diff_mode:
    description: Shows the clients that are made or changed, before and after.
    support: full
"""

EXAMPLES = r"""
- name: Let a hypervisor attach clones by TLS and by NVMe/TCP, and the laboratory's without encryption
  hatchery_client:
    clients:
      - name: hv1
        address: 192.0.2.10
        port: 10809
        nvme:
          address: 192.0.2.10
          host_nqn: nqn.2014-08.org.nvmexpress:uuid:6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10
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
without_key:
  description:
    - Of the clients that are named, those whose host has no key for NVMe/TCP yet, so that nothing can be attached to it
      that way. C(hatchery client certificate NAME DIRECTORY --nvme) makes one.
  returned: success
  type: list
  elements: str
  sample: [hv1]
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "in-use", "what": "...", "why": "...", "hint": "..."}
"""


@dataclass(frozen=True)
class Step:
    """A client that is not as it is wanted: what of it changes, and it before and after in words."""

    name: str
    spec: ClientSpec | None
    door: NvmeSpec | None
    door_goes: bool
    before: str
    after: str


def plan(wanted: Sequence[dict[str, Any]], present: dict[str, ClientView]) -> list[Step]:
    """What is to be done, in the order of ``wanted``. Raises pydantic's ValidationError for what cannot be a client."""
    steps = []
    for one in wanted:
        name, nvme = one["name"], one["nvme"]
        spec = ClientSpec(transport="tcp", **{key: one[key] for key in ("address", "port", "plain", "max_connections")})
        door = None if nvme is None else NvmeSpec(**nvme)
        view = present.get(name)
        old = None if view is None else ClientSpec.model_validate(view.model_dump(include=set(ClientSpec.model_fields)))
        old_door = None if view is None else view.nvme
        new_spec = None if old is not None and _same_client(old, spec) else spec
        new_door = None if door is None or (old_door is not None and _same_door(old_door, door)) else door
        goes = door is None and old_door is not None
        if new_spec is not None or new_door is not None or goes:
            before = "" if old is None else words(name, old, old_door)
            steps.append(Step(name, new_spec, new_door, goes, before, words(name, spec, door)))
    return steps


def words(name: str, spec: ClientSpec, door: NvmeSpec | NvmeDoorView | None) -> str:
    """A client in words, a line for each way to it."""
    how = "a unix socket" if spec.transport == "unix" else f"{spec.address} port {spec.port}"
    how += ", plain NBD" if spec.plain else ""
    lines = f"client {name}: {how}, at most {spec.max_connections} connections\n"
    if door is not None:
        lines += f"client {name}: NVMe/TCP at {door.address} port {door.port} for host {door.host_nqn}\n"
    return lines


def _same_client(old: ClientSpec, new: ClientSpec) -> bool:
    return old.model_copy(update={"address": _plain_form(old.address)}) == new.model_copy(
        update={"address": _plain_form(new.address)}
    )


def _same_door(old: NvmeDoorView, new: NvmeSpec) -> bool:
    return (_plain_form(old.address), old.port, old.host_nqn) == (_plain_form(new.address), new.port, new.host_nqn)


def _plain_form(address: str | None) -> str | None:
    """An IP address as the appliance shows it; what is none as it is, for the appliance to refuse."""
    try:
        return address if address is None else str(ipaddress.ip_address(address))
    except ValueError:
        return address


def settle(api: Client, wanted: Sequence[dict[str, Any]], *, check: bool) -> dict[str, Any]:
    """Make or change what is not as wanted, or only say so; returns what the task reports. Raises HatcheryError."""
    present = {client.name: client for client in api.clients()}
    steps = plan(wanted, present)
    if not check:
        # Doors that go are gone before their ports are wanted for something else.
        for step in steps:
            if step.door_goes:
                api.remove_nvme(step.name)
        for step in steps:
            if step.spec is not None:
                api.put_client(step.name, step.spec)
        for step in steps:
            if step.door is not None:
                api.put_nvme(step.name, step.door)
    return {
        "changed": bool(steps),
        "clients": [step.name for step in steps],
        "without_key": [one["name"] for one in wanted if one["nvme"] is not None and not _has_key(one, present)],
        "diff": {"before": "".join(step.before for step in steps), "after": "".join(step.after for step in steps)},
    }


def _has_key(one: dict[str, Any], present: dict[str, ClientView]) -> bool:
    """Whether a client's host has a key, once all is done: it goes with the host's name."""
    view = present.get(one["name"])
    door = None if view is None else view.nvme
    return door is not None and door.key_made is not None and door.host_nqn == one["nvme"]["host_nqn"]


def main() -> None:
    """Run the module."""
    door = {
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 4420},
        "host_nqn": {"type": "str", "required": True},
    }
    options = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 10809},
        "plain": {"type": "bool", "default": False},
        "max_connections": {"type": "int", "default": 1000},
        "nvme": {"type": "dict", "options": door},
    }
    module = AnsibleModule(
        argument_spec={"clients": {"type": "list", "elements": "dict", "required": True, "options": options}},
        supports_check_mode=True,
    )
    with appliance(module) as api:
        done = settle(api, module.params["clients"], check=module.check_mode)
    module.exit_json(
        changed=done["changed"], clients=done["clients"], without_key=done["without_key"], diff=done["diff"]
    )


if __name__ == "__main__":
    main()
