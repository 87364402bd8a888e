"""A disposable machine for tests: Debian 13's User-Mode Linux with disks that are files.

    host: pytest -> Lab --(serial line, shared folder)--> agent -> functions of tests/kernel/inside, commands
                      |
                      `- setpriv -> unshare -> launch.sh -> linux.uml     (own mount and pid namespaces)

The tree that it runs in is built by ``script/image lab`` and never changed. The checkout is at /hatchery inside,
read-only and on PYTHONPATH. A lab that is killed and started again has the same disks and the same /etc/hatchery, and
nothing else: that is a power cut. When the test process dies, however it dies, the lab dies with it.
"""

import json
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from appliance.model import GIB, MIB
from appliance.run import Completed, Process, Runner
from tests.kernel import folders

CHECKOUT = Path(__file__).resolve().parents[2]
BOOT_DEADLINE = 120.0
"""Seconds from start to the agent's first word; 3 on an idle machine."""

CALL_DEADLINE = 60.0
"""Seconds that a command or function may take unless the test says otherwise."""

SECOND_NVME = 9
"""Number of the second NVMe drive, where there are two; the first has 0, and the disks those between."""


class LabError(Exception):
    """The lab itself broke: it did not boot, died, or stopped answering."""


class InsideError(Exception):
    """A function inside raised. ``kind`` is the exception's class name, ``words`` holds a HatcheryError's fields."""

    def __init__(self, words: Mapping[str, str], output: str) -> None:
        super().__init__(f"{words['kind']}: {words['text']}\n{words['traceback']}\n{output}".rstrip())
        self.kind = words["kind"]
        self.text = words["text"]
        self.words = dict(words)


class Disks(StrEnum):
    """What disks are made of. Faulty ones can die and come back (inside/disks.py); slow ones take 20 ms a request."""

    PLAIN = "plain"
    FAULTY = "faulty"
    SLOW = "slow:20"


@dataclass(frozen=True)
class Options:
    """The machine: sizes in bytes. The NVMe drives are nvme-LAB_0 and nvme-LAB_9, the disks ata-LAB_1, ..."""

    nvme_bytes: int = GIB
    disk_bytes: int = GIB
    disk_count: int = 3
    nvme_count: int = 1
    nvme: Disks = Disks.PLAIN
    disks: Disks = Disks.PLAIN
    memory_bytes: int = 640 * MIB
    udev: bool = False
    kernel_arguments: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all drives and disks."""
        return (*range(self.disk_count + 1), *((SECOND_NVME,) if self.nvme_count == 2 else ()))


@dataclass
class Job:
    """Something that runs inside. ``result`` waits for it."""

    lab: "Lab"
    name: str
    argv: tuple[str, ...] = ()
    deadline: float = CALL_DEADLINE
    answer: dict[str, Any] | None = field(default=None)

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self.lab.text(f"{self.name}.out")

    @property
    def stderr(self) -> str:
        """What it has printed to standard error so far."""
        return self.lab.text(f"{self.name}.err")

    def done(self) -> bool:
        """Whether it has ended."""
        return self.lab.answered(self.name, 0.0)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to it and its children."""
        self.lab.request({"do": "kill", "target": self.name, "signal": int(number)})

    def wait(self, deadline: float | None = None) -> dict[str, Any]:
        """Wait for the answer. Raises LabError when it does not come."""
        if self.answer is None:
            if not self.lab.answered(self.name, deadline or self.deadline):
                said = f"no answer to {self.argv or self.name} within {deadline or self.deadline:g} s"
                raise LabError(f"{said}\n{self.lab.stuck()}")
            self.answer = json.loads(self.lab.text(f"{self.name}.answer"))
        if self.answer.get("timeout"):
            raise LabError(f"{self.argv or self.name} was killed at its deadline\n{self.stdout}\n{self.stderr}")
        return self.answer

    def completed(self, deadline: float | None = None) -> Completed:
        """Of a command: its status and output."""
        answer = self.wait(deadline)
        if "error" in answer:
            raise InsideError(answer["error"], self.stderr)
        return Completed(self.argv, answer["status"], self.stdout, self.stderr)

    def result(self, deadline: float | None = None) -> Any:
        """Of a function: what it returned. Raises InsideError with what it raised."""
        answer = self.wait(deadline)
        if "error" in answer:
            raise InsideError(answer["error"], self.stdout + self.stderr)
        if "result" not in answer:
            raise LabError(f"{self.argv or self.name} died, status {answer.get('status')}\n{self.stdout}{self.stderr}")
        return answer["result"]


class Lab:
    """The machine. A context manager: leaving it kills the machine and removes its folder."""

    running: list["Lab"] = []  # noqa: RUF012 - all labs of this process, for reports on failed tests

    def __init__(self, tree: Path, options: Options | None = None, *, prepared: Path | None = None) -> None:
        """Make the disks: empty, or copies of those in ``prepared`` (a folder that ``save`` made)."""
        self.tree = tree
        self.options = options or Options()
        self.folder, self._lock = folders.own_folder()
        for name in ("root", "disks", "lab", "etc"):
            (self.folder / name).mkdir()
        if prepared:
            folders.copy(prepared / "disks", self.folder / "disks")
            folders.copy(prepared / "etc", self.folder / "etc")
        for number in self.options.numbers:
            size = self.options.nvme_bytes if number in (0, SECOND_NVME) else self.options.disk_bytes
            with (self.folder / "disks" / str(number)).open("ab") as disk:
                disk.truncate(size)
        self._count = 0
        self._boots = 0
        self._process: Process | None = None
        self._line: socket.socket | None = None
        self._life = -1
        self._pending = b""
        self._answered: set[str] = set()
        Lab.running.append(self)

    # --- power

    def start(self, terminal: int | None = None) -> Self:
        """Switch on and wait until the agent answers. ``terminal``: a file descriptor that is /dev/tty1 inside.

        Raises LabError with the console's last words.
        """
        if self._process is not None:
            raise LabError("the lab runs already")
        self._boots += 1
        ours, theirs = socket.socketpair()
        life, held = os.pipe()
        arguments = [
            *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "init=/hatchery/tests/kernel/inside/init.sh"),
            *(f"ubd{number}d=/disks/{number},,LAB_{number}" for number in self.options.numbers),
            *(f"mem={self.options.memory_bytes // MIB}M", f"umid=lab{self._boots}", "con=null", "con0=null,fd:1"),
            *(f"ssl0=fd:{theirs.fileno()}", "ssl1=null", "printk.time=1", "nbd.nbds_max=0"),  # NBD: as the image
            *(() if terminal is None else (f"con1=fd:{terminal}",)),
            *(f"lab.disks={self.options.disks}", f"lab.nvme={self.options.nvme}", *self.options.kernel_arguments),
        ]
        # On one processor, since the machine has but one: a system call inside is two switches between processes, and
        # to wake another processor for each costs more than all else (a virtual host leaves the guest for it).
        # A process that dies takes the next with it: this one -> unshare -> launch.sh, first of its pid namespace.
        guard: list[str | Path] = [
            "taskset",
            "--cpu-list",
            str(self._processor()),
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
        ]
        launch: list[str | Path] = ["sh", Path(__file__).with_name("launch.sh")]
        launch += [self.tree, CHECKOUT, self.folder, folders.pycache()]
        with self.console.open("ab") as console:
            self._process = Runner().start(
                [*guard, "--propagation", "private", *launch, *arguments],
                stdout=console,
                stderr=console,
                pass_fds=(theirs.fileno(), held, *(() if terminal is None else (terminal,))),
            )
        theirs.close()
        os.close(held)
        self._line, self._life, self._pending = ours, life, b""
        if not self.answered("ready", BOOT_DEADLINE):
            words = self.console_tail()
            self.kill()
            raise LabError(f"the lab did not boot\n{words}")
        self._answered.discard("ready")
        if self.options.udev:
            self.call("tests.kernel.inside.udev:start")
        return self

    def _processor(self) -> int:
        """The processor that it runs on. Labs of one process, and of xdist's workers, are dealt out in turn."""
        processors = sorted(os.sched_getaffinity(0))
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        return processors[(worker + Lab.running.index(self)) % len(processors)]

    def kill(self) -> None:
        """Cut the power: every process of it is gone when this returns. Its disks stay."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def poweroff(self) -> None:
        """End the agent and let the kernel sync and power off. What runs inside is not asked to stop first."""
        if self._process is None or self._line is None:
            return
        self._line.sendall(b"quit\n")
        try:
            self._process.wait(CALL_DEADLINE)
        finally:
            self.kill()

    def _ended(self) -> None:
        # Whoever is left of the machine holds the other end of the pipe open: end of file means nobody is left.
        readable, _, _ = select.select([self._life], [], [], CALL_DEADLINE)
        os.close(self._life)
        if self._line is not None:
            self._line.close()
        self._process = self._line = None
        if not readable:
            raise LabError("processes of the lab are still there after its death")

    def restart(self) -> Self:
        """Power cut, and on again."""
        self.kill()
        return self.start()

    @property
    def alive(self) -> bool:
        """Whether it is switched on."""
        return self._process is not None and self._process.running()

    def save(self, target: Path) -> Path:
        """Copy the disks and settings of a lab that is off, for ``prepared``."""
        if self._process is not None:
            raise LabError("a running lab cannot be saved")
        for name in ("disks", "etc"):
            folders.copy(self.folder / name, target / name)
        return target

    def close(self) -> None:
        """Kill it and remove all that it left on the host."""
        try:
            self.kill()
        finally:
            if self in Lab.running:
                Lab.running.remove(self)
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- work inside

    def request(self, body: Mapping[str, Any]) -> str:
        """Hand a request to the agent; see inside/agent.py. Returns its name."""
        if self._line is None:
            raise LabError("the lab is off")
        self._count += 1
        name = str(self._count)
        (self.folder / "lab" / f"{name}.request").write_text(json.dumps(body), encoding="utf-8")
        self._line.sendall(f"{name}\n".encode())
        return name

    def begin(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Job:
        """Start a command and return at once. ``timeout`` (seconds) None: it may run until the lab ends."""
        words = tuple(str(word) for word in argv)
        name = self.request({"do": "run", "argv": words, "stdin": stdin, "env": dict(env or {}), "timeout": timeout})
        return Job(self, name, words, CALL_DEADLINE if timeout is None else timeout + CALL_DEADLINE)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = CALL_DEADLINE,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end. Raises LabError on a bad status (with ``check``) and at its deadline."""
        done = self.begin(argv, stdin=stdin, env=env, timeout=timeout).completed()
        if check and done.returncode != 0:
            raise LabError(f"{' '.join(done.argv)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def begin_call(
        self, function: str | Callable[..., Any], *args: Any, timeout: float = CALL_DEADLINE, **kwargs: Any
    ) -> Job:
        """Start a function (or ``"module:name"``) inside; arguments and result travel as JSON."""
        name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
        body = {"do": "call", "function": name, "args": args, "kwargs": kwargs, "timeout": timeout}
        return Job(self, self.request(body), (name,), timeout + CALL_DEADLINE)

    def call(
        self, function: str | Callable[..., Any], *args: Any, timeout: float = CALL_DEADLINE, **kwargs: Any
    ) -> Any:
        """Call a function inside and return what it returns. Raises InsideError with what it raises."""
        return self.begin_call(function, *args, timeout=timeout, **kwargs).result()

    def stuck(self) -> str:
        """What waits for what, for the words of an error: devices, arrays, and where in the kernel tasks wait."""
        look = self.begin(["sh", "/hatchery/tests/kernel/inside/stuck.sh"], timeout=CALL_DEADLINE)
        return look.stdout if self.answered(look.name, CALL_DEADLINE) else "the machine does not answer at all"

    def answered(self, name: str, deadline: float) -> bool:
        """Wait until the agent has said ``name``. Raises LabError when the machine dies instead."""
        end = time.monotonic() + deadline
        while name not in self._answered:
            if self._line is None:
                raise LabError("the lab is off")
            line = self._line.fileno()
            ready, _, _ = select.select([line, self._life], [], [], max(0.0, end - time.monotonic()))
            if line in ready:
                received = self._line.recv(4096)
                if not received:
                    raise LabError(f"the agent in the lab ended\n{self.console_tail()}")
                *words, self._pending = (self._pending + received).split(b"\n")
                self._answered.update(word.decode(errors="replace").strip() for word in words)
            elif self._life in ready:
                raise LabError(f"the lab died\n{self.console_tail()}")
            elif not ready:
                return False
        return True

    # --- looking from outside

    @property
    def shared(self) -> Path:
        """A folder that is /lab inside."""
        return self.folder / "lab"

    @property
    def console(self) -> Path:
        """What the kernel and init said, over all starts."""
        return self.folder / "console.log"

    def console_tail(self, lines: int = 60) -> str:
        """The console's last lines."""
        try:
            return "\n".join(self.console.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def text(self, name: str) -> str:
        """A file of the shared folder; empty if it is not there yet."""
        try:
            return (self.shared / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def disk(self, number: int) -> Path:
        """The file that is a disk (0 and 9: the NVMe drives)."""
        return self.folder / "disks" / str(number)
