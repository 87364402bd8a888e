"""What the console says when a machine is restarted, is reset and panics is what crash.py takes it for."""

from contextlib import suppress

import pytest

from appliance.errors import HatcheryError
from tests.appliance.conftest import BOOT_DEADLINE, booted
from tests.appliance.crash import crash

LOGIN = "login: "


@pytest.mark.heavy  # four boots, two of them to no purpose but this
def test_restarts_resets_and_panics_are_told_apart() -> None:
    with booted(drives=(), crashes=True) as site:
        console = site.vm.machine.console
        console.wait_for(LOGIN, deadline=BOOT_DEADLINE)
        assert crash(console.text) is None
        site.vm.reboot(deadline=BOOT_DEADLINE)
        console.wait_for(LOGIN, deadline=BOOT_DEADLINE)
        assert crash(console.text) is None, "it was told to restart"
        before = len(console.text)
        site.vm.reset()
        console.wait_for(LOGIN, deadline=BOOT_DEADLINE)
        found = crash(console.text)
        assert found is not None
        assert found.emulator
        site.vm.reconnect(deadline=BOOT_DEADLINE)
        with suppress(HatcheryError):  # the answer may not get out any more
            site.vm.ssh(["systemd-run", "--no-block", "sh", "-c", "echo c >/proc/sysrq-trigger"], timeout=30)
        console.wait_for("Kernel panic", deadline=60)
        console.wait_for(LOGIN, deadline=BOOT_DEADLINE)
        own = crash(console.text[before:])
        assert own is not None
        assert "sysrq triggered crash" in own.words
        assert not own.emulator
