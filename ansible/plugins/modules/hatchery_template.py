"""Ansible module: templates of a Hatchery appliance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery_api import MISSING, appliance

if MISSING is None:
    from appliance.model import Compression, ImageFormat, TemplateState
    from appliance.schema import PathSource, TemplateCreate, UploadSource, UrlSource

if TYPE_CHECKING:
    from appliance.client import Client
    from appliance.schema import TemplateView

DOCUMENTATION = r"""
module: hatchery_template
short_description: Register disk images as templates of a Hatchery appliance
description:
  - Imports each image that is not a version of its template yet. A template version is immutable; an image with another
    digest becomes the next version, and the bare name means that one from then on.
  - The digest is O(templates[].sha256), or that of the file O(templates[].src), which is read for it. Without one of
    them a template of that name is left alone, whatever it was made of.
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
        description: An image file on the appliance, not below /home, /root, /tmp or /var/tmp.
        type: str
      format:
        description: The image's format. It is never guessed.
        type: str
        choices: [raw, qcow2]
        required: true
      compression:
        description: What the file at C(url) or C(path) is packed with, if it is; the appliance unpacks it.
        type: str
        choices: [gz, xz, zst]
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


def digest_of(wanted: dict[str, Any]) -> str | None:
    """The SHA-256 of the image that is wanted, where it can be told without fetching it."""
    if wanted["sha256"]:
        return str(wanted["sha256"]).lower()
    if wanted["src"] is None or not Path(wanted["src"]).is_file():
        return None
    with Path(wanted["src"]).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def is_there(wanted: dict[str, Any], versions: Iterable[TemplateView]) -> bool:
    """Whether one of the template's versions is of the image that is wanted."""
    versions = [version for version in versions if version.state is TemplateState.READY and not version.retired]
    digest = digest_of(wanted) if versions else None
    return any(digest is None or version.sha256 == digest for version in versions)


def add(api: Client, wanted: dict[str, Any], deadline: int) -> None:
    """Import one template and wait until it is ready. Raises what the appliance found wrong with it."""
    common = {
        "name": wanted["name"],
        "format": ImageFormat(wanted["format"]),
        "sha256": (wanted["sha256"] or "").lower() or None,
    }
    packed = Compression(wanted["compression"]) if wanted["compression"] else None
    if wanted["src"] is not None:
        file = Path(wanted["src"])
        size = file.stat().st_size
        operation = api.import_template(TemplateCreate(source=UploadSource(), size=size, **common))
        api.upload(wanted["name"], size, blocks(file), operation)
    elif wanted["url"] is not None:
        web = UrlSource(url=wanted["url"], compression=packed)
        operation = api.import_template(TemplateCreate(source=web, **common))
    else:
        there = PathSource(path=wanted["path"], compression=packed)
        operation = api.import_template(TemplateCreate(source=there, **common))
    api.finish(operation, deadline=deadline)


def main() -> None:
    """Run the module."""
    options = {
        "name": {"type": "str", "required": True},
        "src": {"type": "path"},
        "url": {"type": "str"},
        "path": {"type": "str"},
        "format": {"type": "str", "choices": ["raw", "qcow2"], "required": True},
        "compression": {"type": "str", "choices": ["gz", "xz", "zst"]},
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
                "mutually_exclusive": [("src", "url", "path"), ("src", "compression")],
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
        present = api.templates()
        for wanted in module.params["templates"]:
            if not is_there(wanted, [template for template in present if template.name == wanted["name"]]):
                if wanted["src"] is not None and not Path(wanted["src"]).is_file():
                    module.fail_json(msg=f"template {wanted['name']}: there is no image file {wanted['src']}")
                imported.append(wanted["name"])
                if not module.check_mode:
                    add(api, wanted, module.params["deadline"])
    module.exit_json(changed=bool(imported), templates=imported)


if __name__ == "__main__":
    main()
