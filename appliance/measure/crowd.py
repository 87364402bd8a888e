"""Many guests that boot at once, each watched by a thread of its own."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from appliance.errors import Unhealthy
from appliance.measure import guest, qemu
from appliance.measure.guest import Hardware, NbdTarget
from appliance.measure.serial import MachineFault
from appliance.run import Runner


@dataclass(frozen=True, slots=True)
class Login:
    """A guest of a crowd: seconds from the common begin to its prompt, and processor seconds that its QEMU used."""

    clone: str
    seconds: float
    cpu_seconds: float


def boot_all(
    runner: Runner,
    targets: Sequence[NbdTarget],
    *,
    hardware: Hardware,
    deadline: float,
    ended: Callable[[], None] = lambda: None,
) -> tuple[Login, ...]:
    """Boot the clones at once; returns the logins in their order. ``ended`` is called with each guest's end.

    A guest is ended when it is at its prompt: what it would do next delays no other one's boot, and its memory is free.
    One that the emulator crashed is left out. What else goes wrong with one ends all of them, and is raised as
    ``guest.booted`` does; so is the emulator's fault if it left none.
    """
    crowd = _Crowd(runner, hardware, deadline)
    logins: list[Login] = []
    fault: MachineFault | None = None
    with ThreadPoolExecutor(len(targets), thread_name_prefix="guest") as pool:
        try:
            for done in as_completed([pool.submit(crowd.boot, target) for target in targets]):
                try:
                    logins.append(done.result())
                except MachineFault as error:
                    if error.fault not in guest.EMULATOR_FAULTS:
                        raise
                    fault = error
                ended()
        except BaseException:
            crowd.end()
            raise
    if fault is not None and not logins:
        raise fault
    return tuple(sorted(logins, key=lambda login: login.seconds))


class _Crowd:
    """The guests that boot now."""

    def __init__(self, runner: Runner, hardware: Hardware, deadline: float) -> None:
        self._runner = runner
        self._hardware = hardware
        self._deadline = deadline
        self._lock = threading.Lock()
        self._machines: list[qemu.Machine] = []
        self._ended = False
        self._begin = time.monotonic()

    def boot(self, target: NbdTarget) -> Login:
        """Boot one, in a thread of its own."""
        with guest.started(self._runner, target, hardware=self._hardware) as machine:
            with self._lock:
                if self._ended:
                    raise Unhealthy(f"the boot of {target.export} was broken off", why="another one failed")
                self._machines.append(machine)
            try:
                boot = guest.stopped_at_prompt(machine, deadline=self._deadline)
            finally:
                with self._lock:
                    self._machines.remove(machine)
            return Login(target.export, machine.started - self._begin + boot.seconds, boot.cpu_seconds)

    def end(self) -> None:
        """End all of them: their threads see it and finish."""
        with self._lock:
            self._ended = True
            for machine in self._machines:
                machine.process.signal(signal.SIGKILL)
