"""A clone as a device of the appliance itself, made at boot by the unit's template."""

import json

import pytest

from appliance.schema import CloneCreate
from appliance.wait import until
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import TEMPLATE, Site
from tests.appliance.users import serves

CLONE = "looked-into"
UNIT = f"hatchery-attach@{CLONE}.service"
MARK_AT = 1 << 10
"""In MiB: the guest's system has nothing there."""


def device(site: Site) -> str:
    """The device that the unit stands by."""
    said = site.vm.ssh(["systemctl", "show", "--property=StatusText", "--value", UNIT]).stdout.strip()
    assert said.startswith("/dev/nbd"), said
    return said


def marked(site: Site) -> str:
    """The digest of the mark, read from the disk itself."""
    script = f'dd if="$0" bs=1M count=1 skip={MARK_AT} iflag=direct status=none | sha256sum'
    return site.vm.ssh(["sh", "-c", script, device(site)]).stdout


@pytest.mark.heavy
@pytest.mark.usefixtures("deployed")
def test_the_units_template_makes_the_device_at_boot(site: Site) -> None:
    with site.api() as api:
        (view,) = api.create_clones(CloneCreate(name=CLONE, template=TEMPLATE, client="local", learn=False))
    script = 'mkdir -p /etc/hatchery/attach && echo "URI=$1" >"/etc/hatchery/attach/$0"'
    site.vm.ssh(["sh", "-c", script, CLONE, str(view.uri)])
    try:
        site.vm.ssh(["systemctl", "enable", "--now", UNIT], timeout=300)
        script = f'dd if=/dev/urandom of="$0" bs=1M count=1 seek={MARK_AT} conv=fsync status=none'
        site.vm.ssh(["sh", "-c", script, device(site)])
        before = marked(site)
        site.vm.reboot(deadline=BOOT_DEADLINE)
        serves(site)
        active = ["systemctl", "is-active", UNIT]
        until(lambda: site.vm.ssh(active, check=False).stdout.strip() == "active", UNIT, deadline=300, interval=2)
        assert marked(site) == before
        listed = site.vm.ssh(["hatchery-attach", "--list"]).stdout.split()
        assert (listed[0], listed[-1]) == (device(site), view.uri)
        # Who asks what is on it gets a device of his own, and none is left.
        parts = json.loads(site.vm.ssh(["hatchery", "clone", "look", CLONE, "--json"], timeout=120).stdout)
        assert {part["holds"] for part in parts} >= {"gpt partition table", "ext4", "vfat"}
        assert len(site.vm.ssh(["hatchery-attach", "--list"]).stdout.splitlines()) == 1
        # At its end the device was flushed and taken away, while there was somebody to flush to.
        words = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--boot=-1", f"--unit={UNIT}"]
        ended = site.vm.ssh(words).stdout
        assert "Failed with result" not in ended, ended
        assert "is in use" not in ended, ended
    finally:
        site.vm.ssh(["systemctl", "disable", "--now", UNIT], check=False, timeout=300)
        site.vm.ssh(["rm", "-f", f"/etc/hatchery/attach/{CLONE}"])
        with site.api() as api:
            api.remove_clone(CLONE, force=True)
    assert site.vm.ssh(["hatchery-attach", "--list"]).stdout == ""
    assert site.failed_units() == ""
