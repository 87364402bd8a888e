"""Ansible module: templates of a Hatchery appliance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, appliance

if MISSING is None:
    from appliance.model import ImageFormat
    from appliance.schema import PathSource, TemplateCreate, UploadSource, UrlSource

if TYPE_CHECKING:
    from appliance.client import Client

DOCUMENTATION = r"""
module: hatchery_template
short_description: Register disk images as templates of a Hatchery appliance
description:
  - Imports each image whose template is not there yet. A template is immutable, so one that exists is left alone, and
    it is an error when its recorded digest differs from the one that is wanted.
  - With O(host), runs on the machine that runs Ansible and reaches the appliance's API through SSH. An image named by
    C(src) is streamed into its template without a copy on the appliance.
author:
  - Hatchery authors (@hatchery)
options:
  host:
    description: The appliance as C(USER@HOST). Empty for the machine that the module runs on.
    type: str
    default: ""
  ssh_options:
    description: Further options for C(ssh), written and quoted as on a shell's command line.
    type: str
    default: ""
  templates:
    description: The templates.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The template's name.
        type: str
        required: true
      src:
        description: An image file on the machine that the module runs on.
        type: path
      url:
        description: An http or https URL that the appliance fetches the image from.
        type: str
      path:
        description: An image file on the appliance.
        type: str
      format:
        description: The image's format. It is never guessed.
        type: str
        choices: [raw, qcow2]
        required: true
      sha256:
        description: SHA-256 of the image file, in hexadecimal digits. Checked while it is imported.
        type: str
  deadline:
    description: Seconds that one import may take.
    type: int
    default: 7200
attributes:
  check_mode:
    description: Reports the templates that it would import and imports none.
    support: full
  diff_mode:
    description: No diff is made.
    support: none
"""

EXAMPLES = r"""
- name: Register a template from an image file beside the playbook
  hatchery_template:
    host: root@box.example.net
    templates:
      - name: debian-13
        src: images/debian-13.qcow2
        format: qcow2
  delegate_to: localhost
"""

RETURN = r"""
templates:
  description: The templates that were imported, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [debian-13]
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "bad-image", "what": "...", "why": "...", "hint": "..."}
"""

BLOCK = 1 << 20


def blocks(file: Path) -> Iterator[bytes]:
    """The file's content, a piece at a time."""
    with file.open("rb") as opened:
        while piece := opened.read(BLOCK):
            yield piece


def add(api: Client, wanted: dict[str, Any], deadline: int) -> None:
    """Import one template and wait until it is ready. Raises what the appliance found wrong with it."""
    common = {
        "name": wanted["name"],
        "format": ImageFormat(wanted["format"]),
        "sha256": (wanted["sha256"] or "").lower() or None,
    }
    if wanted["src"] is not None:
        file = Path(wanted["src"])
        size = file.stat().st_size
        operation = api.import_template(TemplateCreate(source=UploadSource(), size=size, **common))
        api.upload(wanted["name"], size, blocks(file), operation)
    elif wanted["url"] is not None:
        operation = api.import_template(TemplateCreate(source=UrlSource(url=wanted["url"]), **common))
    else:
        operation = api.import_template(TemplateCreate(source=PathSource(path=wanted["path"]), **common))
    api.finish(operation, deadline=deadline)


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "src": {"type": "path"},
        "url": {"type": "str"},
        "path": {"type": "str"},
        "format": {"type": "str", "choices": ["raw", "qcow2"], "required": True},
        "sha256": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "default": ""},
            "ssh_options": {"type": "str", "default": ""},
            "templates": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": options,
                "mutually_exclusive": [("src", "url", "path")],
                "required_one_of": [("src", "url", "path")],
            },
            "deadline": {"type": "int", "default": 7200},
        },
        supports_check_mode=True,
    )
    if module.params["ssh_options"]:
        os.environ["HATCHERY_SSH_OPTIONS"] = module.params["ssh_options"]
    imported: list[str] = []
    with appliance(module, module.params["host"]) as api:
        present = {template.name: template for template in api.templates()}
        for wanted in module.params["templates"]:
            old = present.get(wanted["name"])
            if old is None:
                if wanted["src"] is not None and not Path(wanted["src"]).is_file():
                    module.fail_json(msg=f"template {wanted['name']}: there is no image file {wanted['src']}")
                imported.append(wanted["name"])
                if not module.check_mode:
                    add(api, wanted, module.params["deadline"])
            elif wanted["sha256"] and old.sha256 and wanted["sha256"].lower() != old.sha256:
                module.fail_json(
                    msg=f"template {wanted['name']} exists with other content: its source had SHA-256 {old.sha256}"
                    " (choose another name, or remove the template first)"
                )
    module.exit_json(changed=bool(imported), templates=imported)


if __name__ == "__main__":
    main()
