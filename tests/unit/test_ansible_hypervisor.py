"""A hypervisor's certificate and list of clones: what is written, refused and removed; and clones made for it."""

import grp
import json
import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader

from appliance import pki
from appliance.client import connect
from appliance.errors import InUse, NotFound
from appliance.host import netlink
from appliance.schema import Attachment, ClientSpec, CloneCreate
from tests.unit import nvme_box
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box
from tests.unit.test_ansible_modules import load

ROOT = Path(__file__).resolve().parents[2]
hypervisor = load("modules/hatchery_hypervisor.py", "hatchery_hypervisor")
clones = load("modules/hatchery_clones.py", "hatchery_clones")

NOW = time.time()
AUTHORITY = pki.new_authority(NOW)
ISSUED = pki.client(AUTHORITY, "hv1", NOW, 86400.0)
ROTATED = pki.client(AUTHORITY, "hv1", NOW, 86400.0)
CLONES = [
    {"name": "web-1", "uri": "nbds://192.0.2.10:10809/web-1?tls-certificates=/etc/pki/libvirt-nbd", "libvirt": ""},
    {"name": "lab", "uri": "nbd://192.0.2.10:10810/lab", "libvirt": ""},
    {"name": "detached", "uri": None, "libvirt": None},
]


class Host:
    """A hypervisor's file system below a folder, and the module on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params: dict[str, Any] = {
            "state": "present",
            "directory": str(root / "etc/pki/libvirt-nbd"),
            "owner": pwd.getpwuid(os.geteuid()).pw_name,
            "group": grp.getgrgid(os.getegid()).gr_name,
            "authority": AUTHORITY.certificate,
            "certificate": ISSUED.certificate,
            "key": ISSUED.key,
            "list_file": str(root / "etc/hatchery/clones"),
            "clones": CLONES,
        }

    def settle(self, *, check: bool = False, **change: Any) -> dict[str, Any]:
        self.params |= change
        done: dict[str, Any] = hypervisor.settle(self.params, str(self.root), check=check)
        return done

    def seen(self) -> dict[str, tuple[int, str]]:
        """Modes and contents of all that is there."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode & 0o7777, path.read_text() if path.is_file() else "")
            for path in self.root.rglob("*")
        }


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    before = os.umask(0o077)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc").chmod(0o755)
    yield Host(tmp_path)
    os.umask(before)


def test_the_files_have_the_names_and_modes_that_qemu_needs(host: Host) -> None:
    done = host.settle()
    assert done["changed"]
    folder = "etc/pki/libvirt-nbd"
    mine = f"nbds://192.0.2.10:10809/web-1?tls-certificates={host.root}/{folder}"
    assert host.seen() == {
        "etc": (0o755, ""),
        "etc/pki": (0o755, ""),
        folder: (0o750, ""),
        f"{folder}/ca-cert.pem": (0o644, AUTHORITY.certificate),
        f"{folder}/client-cert.pem": (0o644, ISSUED.certificate),
        f"{folder}/client-key.pem": (0o640, ISSUED.key),
        "etc/hatchery": (0o755, ""),
        "etc/hatchery/clones": (0o644, f"web-1 {mine}\nlab nbd://192.0.2.10:10810/lab\n"),
    }
    assert done["uris"] == {"web-1": mine, "lab": "nbd://192.0.2.10:10810/lab"}


def test_a_second_run_changes_nothing_and_check_mode_never_does(host: Host) -> None:
    planned = host.settle(check=True)
    assert planned["changed"]
    assert host.seen() == {"etc": (0o755, "")}
    done = host.settle()
    assert done == planned
    before = host.seen()
    for check in (True, False):
        again = host.settle(check=check)
        assert (again["changed"], again["diff"]) == (False, {"before": "", "after": ""})
    assert host.seen() == before


def test_what_was_changed_by_hand_is_put_right(host: Host) -> None:
    host.settle()
    before = host.seen()
    folder = Path(host.params["directory"])
    folder.chmod(0o755)
    (folder / "client-key.pem").chmod(0o644)
    (folder / "ca-cert.pem").unlink()
    (folder / "ca-cert.pem").symlink_to(host.root / "elsewhere")
    done = host.settle()
    assert done["changed"]
    assert "client-key.pem" in done["diff"]["before"]
    assert "client-cert.pem" not in done["diff"]["before"] + done["diff"]["after"]
    assert host.seen() == before
    assert not (host.root / "elsewhere").exists()


def test_a_rotated_certificate_replaces_the_one_before_and_its_key_is_not_shown(host: Host) -> None:
    said = json.dumps(host.settle())
    said += json.dumps(host.settle(check=True, certificate=ROTATED.certificate, key=ROTATED.key))
    done = host.settle()
    said += json.dumps(done)
    assert done["changed"]
    assert "another key" in done["diff"]["after"]
    assert (Path(host.params["directory"]) / "client-key.pem").read_text() == ROTATED.key
    host.settle(state="absent", check=True)
    said += json.dumps(host.settle(state="absent"))
    for key in (ISSUED.key, ROTATED.key):
        assert not [line for line in key.splitlines() if len(line) > 20 and "KEY" not in line and line in said]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": ROTATED.key}, "do not belong together"),
        ({"key": "no key"}, "cannot be used"),
        ({"certificate": ""}, "cannot be used"),
        ({"authority": "no certificate"}, "ca-cert.pem cannot be used"),
        ({"owner": "nobody-of-this-name"}, "no owner"),
        ({"group": "nobody-of-this-name"}, "no owner"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(host: Host, change: dict[str, Any], words: str) -> None:
    with pytest.raises(hypervisor.Wrong) as caught:
        host.settle(**change)
    assert words in f"{caught.value.words['what']}: {caught.value.words['why']}"
    assert host.seen() == {"etc": (0o755, "")}


def test_a_folder_of_other_things_is_not_closed(host: Host) -> None:
    (host.root / "etc/hosts").touch()
    with pytest.raises(hypervisor.Wrong, match="no folder of certificates"):
        host.settle(directory=str(host.root / "etc"))
    assert host.seen().keys() == {"etc", "etc/hosts"}


def test_what_was_written_is_removed_and_nothing_else(host: Host) -> None:
    host.settle()
    theirs = Path(host.params["directory"]) / "server-cert.pem"
    theirs.touch()
    assert host.settle(state="absent", check=True)["changed"]
    assert len(host.seen()) == 9
    done = host.settle(state="absent")
    assert done["changed"]
    assert "client-key.pem" in done["diff"]["before"]
    assert host.seen().keys() == {"etc", "etc/pki", "etc/pki/libvirt-nbd", "etc/pki/libvirt-nbd/server-cert.pem"}
    assert not host.settle(state="absent")["changed"]
    theirs.unlink()
    host.settle(state="present")
    host.settle(state="absent")
    assert host.seen().keys() == {"etc", "etc/pki"}


# --- clones


@pytest.fixture
def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5"}))
    with box(tmp_path) as made:
        made.add_template("debian")
        made.service.put_client("hv1", ClientSpec(transport="tcp", address="10.0.0.5", port=10809))
        made.service.create_clones(CloneCreate(name="mine", template="debian"))
        yield made


def ask(appliance: Box, *names: str, check: bool = False, **change: Any) -> dict[str, Any]:
    with serving(appliance), connect(socket=appliance.paths.api_socket) as api:
        words = {"client": "hv1", "names": list(names), "template": "debian", **change}
        done: dict[str, Any] = clones.settle(api, words, check=check)
    return done


def test_missing_clones_are_made_once(appliance: Box) -> None:
    planned = ask(appliance, "a", "b", check=True)
    assert (planned["changed"], planned["made"], planned["clones"]) == (True, ["a", "b"], [])
    done = ask(appliance, "a", "b")
    assert done["made"] == ["a", "b"]
    assert [clone["name"] for clone in done["clones"]] == ["a", "b"]
    assert done["clones"][0]["uri"] == "nbds://10.0.0.5:10809/a?tls-certificates=/etc/pki/libvirt-nbd"
    again = ask(appliance, "b", "a")
    assert (again["changed"], again["made"], again["clones"]) == (False, [], done["clones"])
    assert ask(appliance, template=None)["clones"] == done["clones"]


def test_a_clone_over_nvme_says_where_its_host_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with nvme_box.clients(tmp_path, monkeypatch) as made:
        view = nvme_box.attach(made, "web-1").nvme
        made.service.attach("web-2", Attachment(client="hv1"))
        by_nvme, by_nbd = ask(made)["clones"]
    assert view is not None
    assert by_nvme == {
        "name": "web-1",
        "uri": None,
        "libvirt": None,
        "nvme": {"nqn": view.nqn, "address": "10.0.0.5", "port": 4420, "device": view.device},
    }
    assert by_nbd["nvme"] is None
    assert by_nbd["uri"]


def test_what_cannot_be_made_is_refused_before_anything_is(appliance: Box) -> None:
    with pytest.raises(InUse, match="mine"):
        ask(appliance, "a", "mine")
    with pytest.raises(NotFound, match="no clone a"):
        ask(appliance, "a", template=None)
    with pytest.raises(NotFound):
        ask(appliance, "a", client="hv2")
    assert ask(appliance)["clones"] == []


def test_the_examples_guests_have_the_clone_as_their_disk(appliance: Box) -> None:
    (clone,) = ask(appliance, "a")["clones"]
    (play,) = yaml.safe_load((ROOT / "ansible/examples/guests.yml").read_text(encoding="utf-8"))
    jinja = Environment(loader=FileSystemLoader(ROOT / "ansible/examples"), autoescape=False)  # noqa: S701  as Ansible
    jinja.filters["to_uuid"] = lambda text: f"uuid of {text}"
    text = jinja.get_template("domain.xml.j2").render(item=clone, inventory_hostname="hv1", **play["vars"])
    domain = ElementTree.fromstring(text)  # noqa: S314  our own
    assert (domain.findtext("name"), domain.findtext("uuid")) == ("a", "uuid of hv1/a")
    disk = domain.find("devices/disk")
    assert disk is not None
    assert ElementTree.canonicalize(ElementTree.tostring(disk), strip_text=True) == ElementTree.canonicalize(
        clone["libvirt"], strip_text=True
    )
