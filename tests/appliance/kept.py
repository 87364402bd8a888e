"""A store that is deployed, two clones in it with something written to them, and whether all of it is still there."""

import tempfile
from pathlib import Path
from typing import Any

from appliance.model import MIB
from bench.drives import Drive
from bench.vm import LOOPBACK
from tests.appliance.site import CLIENT, NBD_PORT, TEMPLATE, Site
from tests.appliance.users import KEPT_AT, qemu_io, serves

CLONES = {"kept": (), "kept-on-nvme": ("--ephemeral",)}
"""The clones, and the options that make each: one of either kind."""


def deploy(site: Site, nvme: Drive | None = None) -> None:
    """Run the playbook, after which there is nothing more to do. The cache is on the usual drive, or on another."""
    wanted: dict[str, Any] = {} if nvme is None else {"nvme_cache_devices": [nvme.by_id]}
    made = site.play(**wanted)
    assert made.failed == 0, made.said
    assert made.changed > 0, made.said
    again = site.play("--check", **wanted)
    assert (again.failed, again.changed) == (0, 0), again.said


def fill(site: Site) -> None:
    """Make the clones, and write to them."""
    with site.commands() as hatchery:
        for name, words in CLONES.items():
            hatchery.get("clone", "create", name, "--template", TEMPLATE, "--client", CLIENT, *words)
    for number, name in enumerate(CLONES, 1):
        qemu_io(site, name, f"write -q -P {number} {KEPT_AT} 4M", "flush")


def kept(site: Site) -> None:
    """Both clones are served, with what was written to them and with what they have of their template, of which there
    is one version still.
    """
    serves(site)
    for number, name in enumerate(CLONES, 1):
        qemu_io(site, name, f"read -q -P {number} {KEPT_AT} 4M")
        served = f"nbd://{LOOPBACK}:{site.vm.port(NBD_PORT)}/{name}"
        assert _beginning(site, "raw", served) == _beginning(site, "qcow2", str(site.template))
    with site.commands() as hatchery:
        assert [found["ref"] for found in hatchery.get("template", "list")] == [f"{TEMPLATE}@1"]


def _beginning(site: Site, form: str, image: str) -> bytes:
    """The first 16 MiB of an image."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "beginning.raw")
        words = ["dd", "-f", form, "-O", "raw", f"bs={MIB}", "count=16", f"if={image}", f"of={target}"]
        site.runner.run(["qemu-img", *words], timeout=300)
        return target.read_bytes()
