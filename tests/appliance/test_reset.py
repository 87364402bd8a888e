"""The system begins anew, and the store is as it was: after a factory reset, and when the image was written again."""

from collections.abc import Callable

import pytest

from tests.appliance.conftest import BOOT_DEADLINE, booted
from tests.appliance.kept import deploy, fill, kept
from tests.appliance.site import Site
from tests.appliance.stack import at_rest
from tests.pages import Place, of

SETTINGS = "/etc/hatchery/conf.d/30-store.toml"
VARIABLE = "/sys/firmware/efi/efivars/FactoryReset-8cf2644b-4b0b-428f-9387-6d876050dc67"

Renewal = Callable[[Site], None]


def factory_reset(site: Site) -> None:
    """The next start makes the root file system anew; this leaves the machine off."""
    [command] = of(Place.RESET)
    site.vm.ssh(["sh", "-c", command.text])
    site.vm.shutdown()


def written_again(site: Site) -> None:
    """The image is written to the system's disk; this leaves the machine off."""
    site.vm.shutdown()
    site.vm.rewrite_system()


def renew(site: Site, renewal: Renewal) -> None:
    """The system begins anew: it lets its owner in, and knows nothing of a store."""
    before = site.vm.ssh(["cat", "/etc/machine-id"]).stdout
    renewal(site)
    site.vm.forget()
    site.vm.start()
    site.vm.wait_ssh(deadline=BOOT_DEADLINE)
    assert site.vm.ssh(["cat", "/etc/machine-id"]).stdout != before
    # What asked for it is gone: the next start begins nothing anew.
    for gone in (SETTINGS, VARIABLE):
        assert site.vm.ssh(["test", "-e", gone], check=False).returncode == 1
    assert site.failed_units() == ""


@pytest.mark.heavy
def test_the_store_is_found_again_when_the_system_begins_anew() -> None:
    with booted() as site:
        deploy(site)
        fill(site)
        for renewal in (factory_reset, written_again):
            at_rest(site)
            renew(site, renewal)
            deploy(site)
            kept(site)
