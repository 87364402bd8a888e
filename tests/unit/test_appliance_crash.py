"""A crash of a machine is told by its console, and only what no real machine does counts as the emulator's."""

import pytest

from tests.appliance.crash import Crash, Verdict, crash

FIRMWARE = 'BdsDxe: loading Boot0001 "UEFI Misc Device"\nBdsDxe: starting Boot0001 "UEFI Misc Device"\n'
LOGIN = "Hatchery\n  address  10.0.2.15\n\nhatchery login: "
TOLD = "[  121.004518] reboot: Restarting system\n"
PANIC = "[  133.1] Kernel panic - not syncing: Fatal exception in interrupt\n[  133.1] Rebooting in 10 seconds..\n"


@pytest.mark.parametrize(
    "console", ["", FIRMWARE, FIRMWARE + LOGIN, FIRMWARE + LOGIN + TOLD + FIRMWARE + LOGIN], ids=range(4)
)
def test_a_machine_that_runs_or_was_restarted_has_not_crashed(console: str) -> None:
    assert crash(console) is None


def test_a_restart_without_a_word_is_the_emulators() -> None:
    found = crash(FIRMWARE + LOGIN + TOLD + FIRMWARE + LOGIN + FIRMWARE + LOGIN)
    assert found == Crash("the machine began anew, and its kernel had said nothing", emulator=True)


def test_words_that_no_machine_makes_a_kernel_say_are_the_emulators() -> None:
    oops = "[  132.9] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n[  132.9] CPU: 1 PID: 726 Comm: hatcheryd\n"
    found = crash(FIRMWARE + LOGIN + oops + PANIC + FIRMWARE + LOGIN)
    assert found is not None
    assert found.emulator
    assert found.words.startswith("Oops: int3: 0000")
    assert "Comm: hatcheryd" in found.words


OOPS = """BUG: kernel NULL pointer dereference, address: 0000000000000070
[  175.790020] #PF: supervisor read access in kernel mode
[  175.791331] #PF: error_code(0x0000) - not-present page
[  175.793675] PGD 0
[  175.794657] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
[  175.796082] CPU: 1 UID: 0 PID: 637 Comm: md127_raid5 Not tainted 6.12.118+deb13-amd64 #1  Debian 6.12.118-1
[  175.798400] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 0.0.0 02/06/2015
[  175.799647] RIP: 0010:release_inactive_stripe_list+0xb2/0x170 [raid456]
[  175.802765] RSP: 0018:ff66053400943cc0 EFLAGS: 4d1c5646
[  175.803023] RAX: 00000000ffffffff RBX: 0000000000000070 RCX: ff374ebd4ad4a990
"""
"""As an emulated appliance once said it."""


def test_flags_that_no_processor_has_are_the_emulators() -> None:
    found = crash(FIRMWARE + LOGIN + OOPS)
    assert found is not None
    assert found.emulator
    found = crash(FIRMWARE + LOGIN + OOPS.replace("4d1c5646", "00010246"))
    assert found is not None
    assert not found.emulator, "the same with a processor's flags may be the appliance's own"


@pytest.mark.parametrize(
    "words",
    [
        PANIC,
        "[  90.0] BUG: kernel NULL pointer dereference, address: 0000000000000008\n[  90.0] Oops: int3: 0000\n" + PANIC,
        "[  90.0] Oops: Oops: 0002 [#1] SMP\n",
    ],
)
def test_any_other_crash_is_the_appliances_own(words: str) -> None:
    found = crash(FIRMWARE + LOGIN + words + FIRMWARE + LOGIN)
    assert found is not None
    assert not found.emulator
    assert found.words


EMULATORS, OWN = Crash("Oops: int3", emulator=True), Crash("Kernel panic", emulator=False)


def test_failures_are_excused_when_all_came_after_the_emulators_crash() -> None:
    verdict = Verdict()
    verdict.crashed(EMULATORS)
    assert not verdict.excused, "nothing failed"
    verdict.failure()
    verdict.failure()
    assert verdict.excused


def test_a_failure_before_the_emulators_crash_is_not_excused() -> None:
    verdict = Verdict()
    verdict.crashed(OWN)
    verdict.failure()
    verdict.crashed(EMULATORS)
    verdict.failure()
    assert not verdict.excused


def test_a_crash_is_told_once() -> None:
    verdict = Verdict()
    for found in (OWN, EMULATORS, OWN):
        verdict.crashed(found)
    assert verdict.crashes == [OWN, EMULATORS]
