"""Converting a checked qcow2 image, from one volume to another, by a process that can do nothing else (rule 16)."""

import errno
import os
import shlex
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from appliance.errors import BadImage, CommandFailed, HatcheryError, NoSpace, Unhealthy
from appliance.images import sandbox as confined
from appliance.run import Process, Runner

UNIT_PREFIX = "hatchery-import@"
"""Units of conversions are named after it and the staging volume's id."""

MEMORY_MAX = "1G"
"""What a conversion may use; more ends it."""

TIME_MAX = 6 * 3600
"""Seconds after which a conversion is ended."""


class Converter(Protocol):
    """Writes what a qcow2 image on ``source`` describes onto ``target``, whose every byte reads as zero before."""

    def convert(self, source: Path, target: Path, staging: int) -> None:
        """Convert. ``staging`` names the job.

        Raises BadImage when the image turns out to be damaged, NoSpace, Unhealthy when nothing could be converted.
        """

    def stop(self, staging: int) -> None:
        """End that conversion, if it runs: then ``convert`` raises."""

    def stop_all(self) -> None:
        """End conversions that a former process left running."""

    def breaches(self) -> tuple[str, ...]:
        """What those who work on uploaded images may do now and must not (rule 16). Raises CommandFailed."""


def command(source: Path, target: Path) -> tuple[str, ...]:
    """The conversion itself. Both formats are stated, nothing is probed."""
    return (
        "qemu-img",
        "convert",
        "-n",
        "--target-is-zero",
        *("-t", "none", "-T", "none"),
        *("-f", "qcow2", "-O", "raw"),
        str(source),
        str(target),
    )


def sandbox(unit: str, source: Path, target: Path) -> tuple[str, ...]:
    """The conversion in a unit that sees the two devices and nothing else worth seeing."""
    settings = (
        # Block devices belong to this group; the list below says which of them may be opened.
        "SupplementaryGroups=disk",
        # QEMU wants /dev/null; "closed" allows the pseudo devices and what is listed here.
        "DevicePolicy=closed",
        f"DeviceAllow={source} r",
        f"DeviceAllow={target} rw",
        "PrivateNetwork=yes",
        "IPAddressDeny=any",
        # Not "none": systemd-run cannot say it. Without a network, a unix socket leads nowhere that it may see.
        "RestrictAddressFamilies=AF_UNIX",
        f"MemoryMax={MEMORY_MAX}",
        f"RuntimeMaxSec={TIME_MAX}",
    )
    return confined.unit(unit, settings, command(source, target))


class SandboxedConverter:
    """Converts in a transient unit of systemd."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def convert(self, source: Path, target: Path, staging: int) -> None:
        """See Converter."""
        _run(self._runner, sandbox(f"{UNIT_PREFIX}{staging}.service", source, target))

    def stop(self, staging: int) -> None:
        """See Converter."""
        self._runner.run(["systemctl", "stop", f"{UNIT_PREFIX}{staging}.service"], check=False)

    def stop_all(self) -> None:
        """See Converter."""
        self._runner.run(["systemctl", "stop", f"{UNIT_PREFIX}*.service"])

    def breaches(self) -> tuple[str, ...]:
        """See Converter."""
        return confined.breaches(self._runner)


class PlainConverter:
    """Converts in a child process that ends with this one, where there is no service manager."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._running: dict[int, Process] = {}

    def convert(self, source: Path, target: Path, staging: int) -> None:
        """See Converter."""
        words = ("setpriv", "--pdeathsig", "KILL", *command(source, target))
        with tempfile.TemporaryFile() as said, self._runner.start(words, stdout=said, stderr=said) as process:
            self._running[staging] = process
            try:
                status = process.wait(TIME_MAX)
            finally:
                del self._running[staging]
            if status:
                said.seek(0)
                raise judged(CommandFailed(shlex.join(words), status, said.read().decode(errors="replace")))

    def stop(self, staging: int) -> None:
        """See Converter."""
        process = self._running.get(staging)
        if process is not None:
            process.signal(signal.SIGKILL)

    def stop_all(self) -> None:
        """See Converter. A child has ended with its parent."""

    def breaches(self) -> tuple[str, ...]:
        """See Converter. Nothing confines a child."""
        return tuple(f"conversion {staging} is not confined: there is no systemd" for staging in list(self._running))


def _run(runner: Runner, words: Sequence[str]) -> None:
    try:
        runner.run(words, timeout=TIME_MAX + 60)
    except CommandFailed as error:
        raise judged(error) from error


def judged(error: CommandFailed) -> HatcheryError:
    """What a failed conversion means: only what qemu-img itself says is about the image."""
    said = [line for line in error.stderr.splitlines() if line.startswith("qemu-img: ")]
    if any(line.endswith(os.strerror(errno.ENOSPC)) for line in said):
        return NoSpace("the pool is full", why="\n".join(said), hint="remove clones or templates, then import again")
    if said:
        return BadImage("the qcow2 image cannot be converted", why=error.why, hint="check it: qemu-img check FILE")
    return Unhealthy(
        "the conversion of the image could not run",
        why=error.why or f"it ended with status {error.returncode}",
        hint=f"this is not about the image: see `journalctl --unit='{UNIT_PREFIX}*'`",
    )
