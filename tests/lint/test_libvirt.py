"""What the appliance hands out for libvirt is what libvirt's own schema takes."""

import shutil
from pathlib import Path

import pytest
import yaml
from imagebuild.cache import cache_directory
from imagebuild.libvirt_schema import place
from jinja2 import Environment, FileSystemLoader

from appliance.catalog import Clone
from appliance.host.storage_daemon import Listen
from appliance.model import CloneKind, CloneState
from appliance.run import Completed, Runner
from appliance.service import addresses
from tests.lint.files import ROOT
from tests.tier import require

DOORS = {
    "unix": Listen(path=Path("/run/hatchery/nbd/local/nbd.sock")),
    "plain": Listen(address="192.0.2.10", port=10809),
    "tls": Listen(address="2001:db8::1", port=10809, tls=True),
}


def domain(disk: str) -> str:
    """The example's domain around a disk."""
    (play,) = yaml.safe_load((ROOT / "ansible/examples/guests.yml").read_text(encoding="utf-8"))
    jinja = Environment(loader=FileSystemLoader(ROOT / "ansible/examples"), autoescape=False)  # noqa: S701  as Ansible
    jinja.filters["to_uuid"] = lambda _: "7ecb21b5-4d5e-5a0c-9a0e-52a2cb3d4d5e"
    item = {"name": "web", "libvirt": disk}
    return jinja.get_template("domain.xml.j2").render(item=item, inventory_hostname="hv1", **play["vars"])


def judged(text: str, folder: Path) -> Completed:
    """What libvirt's schema says."""
    schema = place(cache_directory())
    require(schema.exists(), "libvirt's schema is missing: script/bootstrap fetches it")
    require(shutil.which("xmllint"), "xmllint is needed (package libxml2-utils)")
    file = folder / "domain.xml"
    file.write_text(text, encoding="utf-8")
    return Runner().run(["xmllint", "--noout", "--nonet", "--relaxng", schema, file], check=False)


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("door", DOORS)
def test_a_clone_is_a_disk_that_libvirt_takes(door: str, seed: int | None, tmp_path: Path) -> None:
    clone = Clone(7, "web", 1, "debian@1", CloneKind.DURABLE, CloneState.READY, 1 << 30, "hv1", 1.0, seed=seed)
    disk = addresses.libvirt_disk(clone, DOORS[door])
    assert disk.count("<disk") == (1 if seed is None else 2)
    done = judged(domain(disk), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("right", "wrong"), [("reconnect delay", "reconnect pause"), ("enospace", "enospc")])
def test_what_libvirt_would_not_take_is_noticed(right: str, wrong: str, tmp_path: Path) -> None:
    clone = Clone(7, "web", 1, "debian@1", CloneKind.DURABLE, CloneState.READY, 1 << 30, "hv1", 1.0)
    text = domain(addresses.libvirt_disk(clone, DOORS["tls"]))
    assert right in text
    assert judged(text.replace(right, wrong), tmp_path).returncode != 0
