"""Ansible module: what a host needs to have clones as disks over NVMe/TCP: its name, its key, and their addresses."""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hatchery import fail
from ansible.module_utils.hatchery_files import Thing, Wrong, look, missing_above, ourselves, put, take_away

DOCUMENTATION = r"""
module: hatchery_nvme_host
short_description: Connect a client's host to its clones over NVMe/TCP
description:
  - Gives a host its NVMe name and the key by which an appliance lets it in, has the kernel's module loaded at boot, and
    writes for each clone where it is. A systemd unit for each connects it, now and at boot, and begins anew whenever
    its disk is gone.
  - The key is never shown, neither in a log nor in a diff, and only root may read its file. A rule for udev hides it in
    sysfs as well, where the kernel would show it to every user of the host.
  - A connected host is given a new key at once, so that it is let in again after its connection is lost.
  - No disk that works is ever disconnected here. One of a clone that is not attached any more is, once nobody answers
    for it.
  - nvme-cli has to be installed, and udev of systemd 251 or newer.
author:
  - Hatchery authors (@hatchery)
options:
  state:
    description:
      - With C(absent) the units are stopped, and what this module wrote is removed. The host keeps its name and the
        disks that it has.
    type: str
    choices: [present, absent]
    default: present
  host_nqn:
    description: The host's NQN, which the appliance must know as that of the client's host.
    type: str
  host_id:
    description: The host's UUID. The kernel wants another one for each name.
    type: str
  key:
    description: The host's key for DH-HMAC-CHAP, as C(hatchery client certificate --nvme) hands it out.
    type: str
  unit:
    description: The template of the units that connect clones, which becomes C(hatchery-nvme-connect@.service).
    type: str
  clones:
    description:
      - The client's clones as M(hatchery_clones) returns them, each with a I(name), and in I(nvme) where it is if it is
        attached over NVMe/TCP. Without this option, clones that are connected at boot stay as they are.
    type: list
    elements: dict
attributes:
  check_mode:
    description: Reports what it would write, remove, start and stop, and touches nothing.
    support: full
  diff_mode:
    description: Shows the files with their owners and modes, and the units; of a key only whether it is another.
    support: full
"""

EXAMPLES = r"""
- name: Connect the clones of the client, now and at boot
  hatchery_nvme_host:
    host_nqn: nqn.2014-08.org.nvmexpress:uuid:6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10
    host_id: 6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10
    key: "{{ lookup('ansible.builtin.file', 'hv1-nvme/nvme-dhchap-key') }}"
    unit: "{{ lookup('ansible.builtin.file', 'hatchery-nvme-connect@.service') }}"
    clones: "{{ asked.clones }}"
"""

RETURN = r"""
devices:
  description: The disks of the clones that are connected at boot, by the clones' names.
  returned: success
  type: dict
  sample: {"web-1": "/dev/disk/by-id/nvme-uuid.3f2a8c1e-7d64-5b0f-9a8e-0c1d2e3f4a5b"}
error:
  description: Why it was refused, or what did not work.
  returned: failure
  type: dict
  sample: {"code": "invalid-input", "what": "...", "why": "...", "hint": "..."}
"""

TEMPLATE = "hatchery-nvme-connect@.service"

RULE = """\
# Of Hatchery's role hypervisor: the kernel lets every user read the key of a connection.
ACTION=="add", SUBSYSTEM=="nvme", TEST=="dhchap_secret", RUN+="/usr/bin/chmod 0600 $sys$devpath/dhchap_secret"
"""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_NQN = re.compile(r"nqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.-]+(:[!-.0-~]+)?")
_PLAIN = re.compile(r"[A-Za-z0-9./:_-]+")
"""What stands for itself in a file of settings of systemd's (systemd.exec(5), EnvironmentFile=)."""

_KEY = re.compile(r"DHHC-1:0[0-3]:([A-Za-z0-9+/]+=*):")
"""A key as NVMe writes it (NVM Express Base 2.0, 8.13.5.8): the secret with its CRC-32 behind it, in Base64."""

Run = Callable[[list[str]], tuple[int, str, str]]
"""Runs a command; its exit status and what it said on standard output and standard error."""


class Host:
    """A machine: its files below ``root``, and its commands."""

    def __init__(self, root: Path, run: Run) -> None:
        self.run = run
        self.clones = root / "etc/hatchery/nvme"
        self.key = root / "etc/hatchery/nvme.json"
        self.modules = root / "etc/modules-load.d/hatchery-nvme.conf"
        self.rule = root / "etc/udev/rules.d/70-hatchery-nvme.rules"
        self.unit = root / "etc/systemd/system" / TEMPLATE
        self.nqn, self.id = root / "etc/nvme/hostnqn", root / "etc/nvme/hostid"
        self._class = root / "sys/class/nvme"

    def must(self, argv: list[str], what: str, hint: str) -> str:
        """What a command says that has to succeed. Raises Wrong."""
        status, said, error = self.run(argv)
        if status != 0:
            raise Wrong(what, f"{' '.join(argv)}: {error.strip() or f'exit status {status}'}", hint)
        return said

    def settings(self) -> dict[str, Thing]:
        """What was written for clones, by their names. Raises Wrong for what is no file."""
        paths = sorted(self.clones.iterdir()) if self.clones.is_dir() else []
        found = {path.name: look(path) for path in paths if _NAME.fullmatch(path.name)}
        return {name: thing for name, thing in found.items() if thing is not None}

    def controllers(self) -> dict[str, list[Path]]:
        """The NVMe controllers that there are over TCP, by their subsystems' names: their folders in sysfs."""
        found: dict[str, list[Path]] = {}
        for folder in sorted(self._class.glob("nvme*")):
            if _line(folder / "transport") == "tcp":
                found.setdefault(_line(folder / "subsysnqn"), []).append(folder)
        return found

    def running(self, names: Iterable[str]) -> set[str]:
        """Of the clones with these names, those whose units are enabled, active and up to date. Raises Wrong."""
        units = {unit_of(name): name for name in names}
        if not units:
            return set()
        argv = ["systemctl", "show", "--property=Id,UnitFileState,ActiveState,NeedDaemonReload", *units]
        said = self.must(argv, "the units cannot be looked at", "is this a machine with systemd?")
        found = set()
        for block in said.split("\n\n"):
            facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            known = facts.get("NeedDaemonReload") == "no"
            if known and (facts.get("UnitFileState"), facts.get("ActiveState")) == ("enabled", "active"):
                found.add(units.get(facts["Id"], ""))
        return found - {""}


@dataclass
class Plan:
    """What is to be done, in this order, and what stays undone in check mode."""

    put: list[tuple[Thing | None, Thing]] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    remove: list[Thing] = field(default_factory=list)
    keys: list[Path] = field(default_factory=list)
    start: list[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return any((self.put, self.stop, self.cut, self.remove, self.keys, self.start))

    def diff(self) -> dict[str, str]:
        """It in words, before and after."""
        before = [old.words() for old, _ in self.put if old is not None]
        after = [new.words(old) for old, new in self.put]
        before += [thing.words() for thing in self.remove]
        before += [f"{nqn} connected\n" for nqn in self.cut]
        before += [f"{unit_of(name)} enabled\n" for name in self.stop]
        after += [f"{folder.name} another key\n" for folder in self.keys]
        after += [f"{unit_of(name)} enabled, started\n" for name in self.start]
        return {"before": "".join(before), "after": "".join(after)}


def unit_of(name: str) -> str:
    """The unit that connects a clone."""
    return TEMPLATE.replace("@", f"@{name}")


def check_name(nqn: str, host_id: str) -> str:
    """Check a host's two names; its UUID as the kernel writes it. Raises Wrong."""
    if len(nqn) > 223 or not _NQN.fullmatch(nqn):
        raise Wrong(f"{nqn!r} is not the NQN of a host", "it begins with nqn.YEAR-MONTH.DOMAIN", "`nvme gen-hostnqn`")
    try:
        return str(uuid.UUID(host_id))
    except ValueError:
        raise Wrong(f"{host_id!r} is not a host's id", "it is no UUID", "`uuidgen` makes one") from None


def check_key(text: str) -> str:
    """Check that a key is whole; without what surrounds it. Raises Wrong, and never with the key."""
    match = _KEY.fullmatch(text.strip())
    try:
        raw = base64.b64decode(match.group(1), validate=True) if match else b""
    except binascii.Error:
        raw = b""
    if len(raw) not in (36, 52, 68) or zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        hint = "take the file that `hatchery client certificate --nvme` or `rotate --nvme` wrote, as it is"
        raise Wrong("the key cannot be used", "it is not one of DH-HMAC-CHAP, or a part of it is missing", hint)
    return text.strip()


def settings_of(clone: dict[str, Any]) -> str:
    """Where a clone is, for its unit. Raises Wrong for what does not come from an appliance."""
    where = clone["nvme"]
    words = {
        "NQN": where["nqn"],
        "ADDRESS": where["address"],
        "PORT": str(where["port"]),
        "DEVICE": where["device"],
    }
    odd = [word for word in words.values() if not _PLAIN.fullmatch(word)]
    if odd or not _NAME.fullmatch(clone["name"]):
        hint = "take the clones from hatchery_clones"
        raise Wrong(f"clone {clone['name']!r} cannot be connected", f"it is not reached at {odd}", hint)
    return "".join(f"{name}={word}\n" for name, word in words.items())


def wanted(params: dict[str, Any], host: Host) -> list[Thing]:
    """The folders and files that there must be, a folder before what is in it. Raises Wrong."""
    nqn, host_id, key = params["host_nqn"], check_name(params["host_nqn"], params["host_id"]), check_key(params["key"])
    known = [{"hostnqn": nqn, "hostid": host_id, "dhchap_key": key}]
    found: list[Thing] = []
    for path, mode, text in (
        (host.nqn, 0o644, f"{nqn}\n"),
        (host.id, 0o644, f"{host_id}\n"),
        (host.key, 0o600, f"{json.dumps(known, indent=2)}\n"),
        (host.modules, 0o644, "nvme-tcp\n"),
        (host.rule, 0o644, RULE),
        (host.unit, 0o644, f"{params['unit'].strip()}\n"),
        *((host.clones / one["name"], 0o644, settings_of(one)) for one in _connected(params)),
    ):
        found += [above for above in missing_above(path) if above not in found]
        found.append(Thing(path, mode, *ourselves(), text.encode(), secret=path == host.key))
    return found


def _connected(params: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in params["clones"] or [] if one.get("nvme")]


def plan(params: dict[str, Any], host: Host) -> Plan:
    """What is to be done. Raises Wrong, OSError."""
    there = host.settings()
    if params["state"] == "absent":
        return _removal(host, there)
    made = Plan()
    for thing in wanted(params, host):
        old = look(thing.path, secret=thing.secret)
        if old != thing:
            made.put.append((old, thing))
    controllers = host.controllers()
    here = {one["name"]: one["nvme"]["nqn"] for one in _connected(params)}
    if params["clones"] is not None:
        made.stop = [name for name in there if name not in here]
        made.remove = [there[name] for name in made.stop]
        before = {_nqn_in(thing) for thing in there.values()}
        # What answers is attached, so it is another appliance's, or of another client.
        made.cut = sorted(nqn for nqn in before - set(here.values()) if _is_dead(controllers.get(nqn, [])))
    mine = set(here.values()) | {_nqn_in(thing) for name, thing in there.items() if name not in made.stop}
    key = check_key(params["key"])
    folders = [folder for nqn in sorted(mine & set(controllers)) for folder in controllers[nqn]]
    made.keys = [folder for folder in folders if _line(folder / "dhchap_secret") not in ("", "none", key)]
    changed = {thing.path for _, thing in made.put}
    running = host.running(here)
    made.start = [name for name in here if name not in running or host.unit in changed or host.clones / name in changed]
    return made


def _removal(host: Host, there: dict[str, Thing]) -> Plan:
    files = [look(host.key, secret=True), look(host.modules), look(host.rule), look(host.unit)]
    made = Plan(stop=list(there), remove=[*there.values(), *(thing for thing in files if thing is not None)])
    folder = look(host.clones)
    if folder is not None and {path.name for path in host.clones.iterdir()} <= set(there):
        made.remove.append(folder)
    return made


def apply(made: Plan, params: dict[str, Any], host: Host) -> None:
    """Do it. Raises Wrong, OSError."""
    root = "it has to be run as root: `become: true`"
    for _, thing in made.put:
        put(thing)
    if made.start or any(thing.path == host.unit for _, thing in made.put):
        host.must(["systemctl", "daemon-reload"], "systemd does not read its units anew", root)
    if made.stop:
        argv = ["systemctl", "disable", "--now", *map(unit_of, made.stop)]
        host.must(argv, "the units of clones that go are not stopped", root)
    for nqn in made.cut:
        host.must(["nvme", "disconnect", f"--nqn={nqn}"], "a clone that is not attached any more stays connected", root)
    for thing in made.remove:
        take_away(thing)
    if any(thing.path == host.unit for thing in made.remove):
        host.must(["systemctl", "daemon-reload"], "systemd does not read its units anew", root)
    for folder in made.keys:
        (folder / "dhchap_secret").write_text(check_key(params["key"]), encoding="ascii")
    if made.start:
        units = [unit_of(name) for name in made.start]
        host.must(["systemctl", "enable", *units], "the units are not enabled", root)
        host.must(
            ["systemctl", "restart", *units],
            "not every clone is connected",
            f"`journalctl -u {units[0]}` says why: is the key the client's newest? They go on trying",
        )


def settle(params: dict[str, Any], host: Host, *, check: bool) -> dict[str, Any]:
    """Do what is missing, or only say so; returns what the task reports. Raises Wrong, OSError."""
    made = plan(params, host)
    shown = made.diff()
    if not check:
        apply(made, params, host)
    devices = {one["name"]: one["nvme"]["device"] for one in _connected(params)} if params["state"] == "present" else {}
    return {"changed": made.changes, "devices": devices, "diff": shown}


def _nqn_in(settings: Thing) -> str:
    """The subsystem that a file of settings names."""
    lines = (settings.content or b"").decode(errors="replace").splitlines()
    return next((line.removeprefix("NQN=") for line in lines if line.startswith("NQN=")), "")


def _is_dead(controllers: list[Path]) -> bool:
    """Whether there is such a disk, and nobody answers for it."""
    return bool(controllers) and all(_line(folder / "state") != "live" for folder in controllers)


def _line(path: Path) -> str:
    """What sysfs has in a file; empty where there is none, as of a controller that goes."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "host_nqn": {"type": "str"},
            "host_id": {"type": "str"},
            "key": {"type": "str", "no_log": True},
            "unit": {"type": "str"},
            "clones": {"type": "list", "elements": "dict"},
        },
        required_if=[["state", "present", ["host_nqn", "host_id", "key", "unit"]]],
        supports_check_mode=True,
    )
    host = Host(Path("/"), lambda argv: module.run_command(argv))
    try:
        done = settle(module.params, host, check=module.check_mode)
    except Wrong as wrong:
        fail(module, wrong.words)
    except OSError as error:
        hint = "it has to be run as root: `become: true`"
        fail(module, {"code": "refused", "what": "the files cannot be changed", "why": str(error), "hint": hint})
    module.exit_json(changed=done["changed"], devices=done["devices"], diff=done["diff"])


if __name__ == "__main__":
    main()
