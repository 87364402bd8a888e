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
    from appliance.bootset import file as boot_set_file
    from appliance.errors import NotFound
    from appliance.model import Compression, ImageFormat, TemplateState
    from appliance.schema import PathSource, TemplateCreate, UploadSource, UrlSource

if TYPE_CHECKING:
    from appliance.bootset.boot_set import BootSet
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
  - Gives a template a boot set, unless it has that one already.
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
      boot_set:
        description:
          - A file that C(hatchery template boot-set export) wrote, on the machine that the module runs on. The version
            of this image gets it, and it is fetched into the cache at once.
          - It replaces another one, also one that was learned meanwhile.
        type: path
  deadline:
    description: Seconds that one import may take.
    type: int
    default: 7200
attributes:
  check_mode:
    description: Reports the templates that it would import and the boot sets that it would give, and does neither.
    support: full
  diff_mode:
    description: Shows what is imported of which image, and the boot sets before and after.
    support: full
"""

EXAMPLES = r"""
- name: Register a template from an image file beside the playbook
  hatchery_template:
    host: root@box.example.net
    templates:
      - name: debian-13
        src: images/debian-13.qcow2
        format: qcow2
        boot_set: images/debian-13.boot-set
  delegate_to: localhost
"""

RETURN = r"""
templates:
  description: The templates that were imported, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [debian-13]
boot_sets:
  description: The templates that were given a boot set, or would be in check mode.
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


def version_of(wanted: dict[str, Any], versions: Iterable[TemplateView]) -> TemplateView | None:
    """The newest of the template's versions that is of the image that is wanted; None when there is none."""
    versions = [version for version in versions if version.state is TemplateState.READY and not version.retired]
    digest = digest_of(wanted) if versions else None
    found = [version for version in versions if digest is None or version.sha256 == digest]
    return max(found, key=lambda version: version.version, default=None)


def boot_set_of(wanted: dict[str, Any]) -> BootSet | None:
    """The boot set that is wanted. Raises InvalidInput, NotFound."""
    if wanted["boot_set"] is None:
        return None
    return boot_set_file.load(text_of(wanted["boot_set"], wanted["name"])).boot_set


def text_of(path: str, name: str) -> str:
    """The boot set's file. Raises NotFound."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "`hatchery template boot-set export` writes such a file"
        raise NotFound(f"template {name}: the boot set {path} cannot be read", why=str(error), hint=hint) from error


def has_boot_set(api: Client, version: TemplateView, wanted: BootSet) -> bool:
    """Whether a version's boot set reads the same as the one that is wanted, in the same order."""
    if version.boot_set is None:
        return False
    return boot_set_file.load(api.export_boot_set(version.ref)).boot_set.extents == wanted.extents


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


def settle(api: Client, params: dict[str, Any], *, check: bool) -> dict[str, Any]:
    """Import what is missing, and give boot sets; return what the task reports.

    With ``check`` it only says what it would do. Raises what the appliance refuses, InvalidInput and NotFound for a
    file that is no boot set or is not there, before anything was imported.
    """
    present = api.templates()
    boot_sets = {wanted["name"]: boot_set_of(wanted) for wanted in params["templates"]}
    versions = {
        wanted["name"]: version_of(wanted, [template for template in present if template.name == wanted["name"]])
        for wanted in params["templates"]
    }
    for wanted in params["templates"]:
        if versions[wanted["name"]] is None and wanted["src"] is not None and not Path(wanted["src"]).is_file():
            raise NotFound(f"template {wanted['name']}: there is no image file {wanted['src']}")
    imported: list[str] = []
    given: list[str] = []
    before, after = "", ""
    for wanted in params["templates"]:
        name, found, boot_set = wanted["name"], versions[wanted["name"]], boot_sets[wanted["name"]]
        if found is None:
            imported.append(name)
            after += f"{name}: a new version of {wanted['src'] or wanted['url'] or wanted['path']}\n"
            if not check:
                add(api, wanted, params["deadline"])
        if boot_set is not None and (found is None or not has_boot_set(api, found, boot_set)):
            given.append(name)
            ref = name if found is None else found.ref
            if found is not None:
                before += f"{ref}: {'no boot set' if found.boot_set is None else words(found.boot_set.total_bytes)}\n"
            after += f"{ref}: {words(boot_set.total)}\n"
            if not check:
                api.import_boot_set(ref, text_of(wanted["boot_set"], name))
    return {
        "changed": bool(imported or given),
        "templates": imported,
        "boot_sets": given,
        "diff": {"before": before, "after": after},
    }


def words(total: int) -> str:
    """A boot set of so many bytes in a diff."""
    return f"a boot set of {total} bytes"


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
        "boot_set": {"type": "path"},
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
    with appliance(module, module.params["host"]) as api:
        result = settle(api, module.params, check=module.check_mode)
    module.exit_json(
        changed=result["changed"],
        templates=result["templates"],
        boot_sets=result["boot_sets"],
        diff=result["diff"],
    )


if __name__ == "__main__":
    main()
