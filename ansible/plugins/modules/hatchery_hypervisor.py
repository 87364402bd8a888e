"""Ansible module: what a hypervisor needs to reach its clones: a certificate, and the clones' addresses."""

from __future__ import annotations

import grp
import pwd
import ssl
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import fail
from ansible.module_utils.hatchery_files import Thing, Wrong, look, missing_above, ourselves, put, take_away

DOCUMENTATION = r"""
module: hatchery_hypervisor
short_description: Put a client's certificate on a hypervisor, and a list of its clones
description:
  - Writes the three files of a client's certificate under the names that QEMU, libvirt and libnbd look for, and a list
    of clones with their NBD URIs.
  - The key is never shown, neither in a log nor in a diff.
  - A key that does not belong to the certificate is refused, and nothing has changed then.
author:
  - Hatchery authors (@hatchery)
options:
  state:
    description: Whether the files are there. With C(absent) they are removed, and folders that are empty then.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description: The folder of the certificate on the hypervisor.
    type: str
    default: /etc/pki/libvirt-nbd
  owner:
    description: The user whose files they are.
    type: str
    default: root
  group:
    description: The group that may read the key, which is that of QEMU's processes.
    type: str
    default: kvm
  authority:
    description: The certificate of the appliance's authority, in PEM.
    type: str
  certificate:
    description: The client's certificate, in PEM.
    type: str
  key:
    description: The key of the client's certificate, in PEM.
    type: str
  list_file:
    description: The file with the list of clones on the hypervisor, a name and a URI in each line; empty for none.
    type: str
    default: /etc/hatchery/clones
  clones:
    description: The clones that are listed, each with a I(name) and a I(uri), as M(hatchery_clones) returns them.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Reports what it would write or remove and touches nothing.
    support: full
  diff_mode:
    description: Shows the files with their owners and modes, and the list; of a key only whether it is another.
    support: full
"""

EXAMPLES = r"""
- name: Put a certificate on the hypervisor
  hatchery_hypervisor:
    authority: "{{ lookup('ansible.builtin.file', 'hv1-certificate/ca-cert.pem') }}"
    certificate: "{{ lookup('ansible.builtin.file', 'hv1-certificate/client-cert.pem') }}"
    key: "{{ lookup('ansible.builtin.file', 'hv1-certificate/client-key.pem') }}"
"""

RETURN = r"""
uris:
  description: The URIs of the clones that are listed, by their names.
  returned: success
  type: dict
  sample: {"web-1": "nbds://192.0.2.10:10809/web-1?tls-certificates=/etc/pki/libvirt-nbd"}
error:
  description: Why it was refused.
  returned: failure
  type: dict
  sample: {"code": "invalid-input", "what": "...", "why": "...", "hint": "..."}
"""

AUTHORITY, CERTIFICATE, KEY = "ca-cert.pem", "client-cert.pem", "client-key.pem"
FOLDER_WORD = "tls-certificates="
"""What of a clone's URI names the folder of the certificate (NetworkBlockDevice/nbd, doc/uri.md)."""


def wanted(params: dict[str, Any]) -> list[Thing]:
    """The folders and files that there must be, a folder before what is in it. Raises Wrong."""
    uid, gid = _ids(params["owner"], params["group"])
    folder = Path(params["directory"])
    found = [*missing_above(folder), Thing(folder, 0o750, uid, gid)]
    for name, parameter, mode in (
        (AUTHORITY, "authority", 0o644),
        (CERTIFICATE, "certificate", 0o644),
        (KEY, "key", 0o640),
    ):
        content = f"{params[parameter].strip()}\n".encode()
        found.append(Thing(folder / name, mode, uid, gid, content, secret=name == KEY))
    if params["list_file"]:
        file = Path(params["list_file"])
        content = "".join(f"{name} {uri}\n" for name, uri in uris(params).items()).encode()
        found += [above for above in missing_above(file) if above not in found]
        found.append(Thing(file, 0o644, *ourselves(), content))
    return found


def uris(params: dict[str, Any]) -> dict[str, str]:
    """The URIs of the clones by their names, each with the folder in which the certificate is on this machine."""
    return {one["name"]: with_folder(one["uri"], params["directory"]) for one in params["clones"] if one.get("uri")}


def with_folder(uri: str, folder: str) -> str:
    """A URI with this folder of the certificate instead of its own; one without TLS as it is."""
    parts = urlsplit(uri)
    words = [f"{FOLDER_WORD}{folder}" if word.startswith(FOLDER_WORD) else word for word in parts.query.split("&")]
    return urlunsplit(parts._replace(query="&".join(words)))


def check_folder(folder: Path) -> None:
    """Check that a folder can be closed to others, because it is one of certificates and no other. Raises Wrong."""
    others = [entry.name for entry in folder.iterdir() if ".pem" not in entry.name] if folder.is_dir() else []
    if others:
        raise Wrong(
            f"{folder} is no folder of certificates",
            f"it holds {min(others)}, and others than QEMU could not look into it any more",
            "name a folder of its own, such as /etc/pki/libvirt-nbd",
        )


def check_certificate(authority: str, certificate: str, key: str, scratch: str) -> None:
    """Check that a key belongs to its certificate, and that the authority's is one. Raises Wrong.

    ``scratch`` is a folder that only we can read.
    """
    hint = "take all three files from one `hatchery client certificate` or `rotate`"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise Wrong(f"{AUTHORITY} cannot be used", f"it is no certificate in PEM: {error}", hint) from None
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        public, secret = Path(folder) / CERTIFICATE, Path(folder) / KEY
        public.write_text(certificate, encoding="utf-8")
        secret.touch(mode=0o600)
        secret.write_text(key, encoding="utf-8")
        try:
            context.load_cert_chain(public, secret, password="")
        except (ssl.SSLError, ValueError) as error:
            why = f"they are not PEM, or do not belong together: {getattr(error, 'reason', None) or error}"
            raise Wrong(f"{CERTIFICATE} and {KEY} cannot be used", why, hint) from None


def what_goes(params: dict[str, Any]) -> list[Thing]:
    """The files that are there, then the folders that are empty without them."""
    files = [Path(params["directory"]) / name for name in (AUTHORITY, CERTIFICATE, KEY)]
    if params["list_file"]:
        files.append(Path(params["list_file"]))
    found = [thing for path in files if (thing := look(path, secret=path.name == KEY)) is not None]
    going = {thing.path for thing in found}
    for above in dict.fromkeys(thing.path.parent for thing in found):
        folder = look(above)
        if folder is not None and not above.is_symlink() and set(above.iterdir()) <= going:
            found.append(folder)
    return found


def _ids(owner: str, group: str) -> tuple[int, int]:
    hint = "name a user and a group of this machine; QEMU has to be installed before"
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Wrong("the certificate would have no owner", str(error.args[0]), hint) from None


def settle(params: dict[str, Any], scratch: str, *, check: bool) -> dict[str, Any]:
    """Write or remove what is wanted, or only say so; returns what the task reports. Raises Wrong, OSError."""
    if params["state"] == "absent":
        going = what_goes(params)
        if not check:
            for thing in going:
                take_away(thing)
        shown = {"before": "".join(thing.words() for thing in going), "after": ""}
        return {"changed": bool(going), "uris": {}, "diff": shown}
    check_folder(Path(params["directory"]))
    check_certificate(params["authority"], params["certificate"], params["key"], scratch)
    pairs = [(look(thing.path, secret=thing.secret), thing) for thing in wanted(params)]
    changed = [(old, new) for old, new in pairs if old != new]
    if not check:
        for _, thing in changed:
            put(thing)
    shown = {
        "before": "".join(old.words() for old, _ in changed if old is not None),
        "after": "".join(new.words(old) for old, new in changed),
    }
    return {"changed": bool(changed), "uris": uris(params), "diff": shown}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directory": {"type": "str", "default": "/etc/pki/libvirt-nbd"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "kvm"},
            "authority": {"type": "str"},
            "certificate": {"type": "str"},
            "key": {"type": "str", "no_log": True},
            "list_file": {"type": "str", "default": "/etc/hatchery/clones"},
            "clones": {"type": "list", "elements": "dict", "default": []},
        },
        required_if=[["state", "present", ["authority", "certificate", "key"]]],
        supports_check_mode=True,
    )
    try:
        done = settle(module.params, module.tmpdir, check=module.check_mode)
    except Wrong as wrong:
        fail(module, wrong.words)
    except OSError as error:
        hint = "it has to be run as root: `become: true`"
        fail(module, {"code": "refused", "what": "the files cannot be changed", "why": str(error), "hint": hint})
    module.exit_json(changed=done["changed"], uris=done["uris"], diff=done["diff"])


if __name__ == "__main__":
    main()
