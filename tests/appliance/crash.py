"""What a machine's console tells of a crash, and whether the emulator alone can have done it."""

import re
from dataclasses import dataclass

from appliance.measure.guest import EMULATOR_FAULTS

EMULATOR = 75
"""Exit status of a session whose failures all came after the emulator had crashed a machine (EX_TEMPFAIL)."""

_KERNEL = re.compile("|".join(map(re.escape, (*EMULATOR_FAULTS, "Oops: ", "BUG: ", "Kernel panic"))))
"""What a kernel says first when it comes to grief."""

_FIRMWARE = "BdsDxe: starting "
"""What the firmware says as it hands over to the loader (EDK II: MdeModulePkg/Universal/BdsDxe)."""

_ASKED = "reboot: "
"""What a kernel says whenever it restarts the machine because it was told to (Linux: kernel/reboot.c)."""

_FLAGS = re.compile(r"EFLAGS: ([0-9a-f]{8})\b")
"""A processor's flags as they were when the kernel came to grief (Linux: arch/x86/kernel/process_64.c)."""

_RESERVED = 0xFFC0_0000
"""Flags that every processor has as zeroes (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
section 3.4.3)."""

_LINES = 15


@dataclass(frozen=True)
class Crash:
    """What the console said about it, and whether it is the emulator's fault."""

    words: str
    emulator: bool


def crash(console: str) -> Crash | None:
    """The first crash of a machine since it was switched on, by all that its ``console`` has said; None without one.

    It is the emulator's where the kernel's words are known to be of no machine, or tell flags that no processor has, or
    where the machine began anew and its kernel had neither restarted it nor said a word: a processor's triple fault. A
    kernel that panics says so.
    """
    boots = console.split(_FIRMWARE)
    for boot in boots[1:]:
        if found := _KERNEL.search(boot):
            words = "\n".join(boot[found.start() :].splitlines()[:_LINES])
            return Crash(words, found[0] in EMULATOR_FAULTS or _impossible(words))
        if boot is not boots[-1] and _ASKED not in boot:
            return Crash("the machine began anew, and its kernel had said nothing", emulator=True)
    return None


def _impossible(words: str) -> bool:
    found = _FLAGS.search(words)
    return found is not None and bool(int(found[1], 16) & _RESERVED)


class Verdict:
    """The crashes of a session's machines, and whether all failures came after one that is the emulator's."""

    def __init__(self) -> None:
        self.crashes: list[Crash] = []
        self._failed = self._own = False

    def crashed(self, crash: Crash) -> None:
        """A machine has crashed; it may be told again."""
        if crash not in self.crashes:
            self.crashes.append(crash)

    def failure(self) -> None:
        """A test has failed."""
        self._failed = True
        self._own = self._own or not any(crash.emulator for crash in self.crashes)

    @property
    def excused(self) -> bool:
        """Something failed, and nothing before the emulator had crashed a machine."""
        return self._failed and not self._own
