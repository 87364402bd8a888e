"""What is done to bring a bundle's version, or the other slot, to the next start; and what is refused beforehand.

The planner is pure. It never lets go of a way back: what runs was found good, and can open what the new one leaves.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from appliance import wait
from appliance.errors import HatcheryError, InUse, NoSpace, NotFound, NotReady, Refused, Unhealthy
from appliance.host import block, partitions
from appliance.host.partitions import Partition
from appliance.progress import QUIET, Bar
from appliance.reconcile import Description, Step
from appliance.run import Runner
from appliance.update import slots
from appliance.update.bundle import Bundle
from appliance.update.record import Record, Trial
from appliance.update.slots import TRIES, USR, Slots, Uki, parse_uki, spare
from appliance.update.version import Version

SYSUPDATE = "/usr/lib/systemd/systemd-sysupdate"
DEADLINE = 3600.0
"""Seconds that writing a slot may take."""

WENT_BACK = "an operator went back from it"
"""The reason that is kept for a version which was not given up by the appliance itself."""

LOOK_SECONDS = 0.5
"""From one look at how far that is to the next."""

EMPTY = "_empty"
"""What systemd-sysupdate calls a partition that it may write to (sysupdate.d(5))."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator accepts: a version that failed before, an older one, one without a way back, a sick store."""

    again: bool = False
    older: bool = False
    no_way_back: bool = False
    unhealthy: bool = False


@dataclass(frozen=True, slots=True)
class Forms:
    """Forms of the catalog: the one on the store (None: there is no store), and the one that what runs writes."""

    there: int | None
    known: int


@dataclass(frozen=True, slots=True)
class Box:
    """What steps are applied to: ``boot`` is the folder of the versions that can be started."""

    runner: Runner
    boot: Path
    record: Record
    bar: Bar = QUIET


Steps: TypeAlias = tuple[Step[Box], ...]


@dataclass(frozen=True, slots=True)
class Empty:
    """Empty the slot that does not run: systemd keeps a half that has the name of the version that it installs."""

    ukis: tuple[Uki, ...]
    halves: tuple[Partition, ...]

    def describe(self) -> Description:
        """See Step."""
        names = ", ".join([uki.name for uki in self.ukis] or [half.name for half in self.halves])
        return Description("empty", "the second slot", f"it holds {names}")

    def apply(self, box: Box) -> None:
        """See Step. Nothing can be started of it before its content goes."""
        for uki in self.ukis:
            (box.boot / uki.name).unlink(missing_ok=True)
        for half in self.halves:
            partitions.rename(box.runner, slots.system_disk(), half, EMPTY)


@contextmanager
def _watched(bar: Bar, words: str, size: int) -> Iterator[None]:
    """Move the bar with what is written to the system disk: systemd-sysupdate says nothing that can be relied upon."""
    if bar is QUIET:
        yield
        return
    disk = slots.system_disk()
    begin = block.statistics(disk).write_bytes
    bar.begin(words, size)

    def look() -> None:
        bar.tell(words, min(size, block.statistics(disk).write_bytes - begin), size)

    with wait.watch(look, interval=LOOK_SECONDS):
        yield


@dataclass(frozen=True, slots=True)
class Install:
    """Write a bundle to the slot that does not run, and put its version on trial."""

    bundle: Bundle
    running: Version
    known: int

    def describe(self) -> Description:
        """See Step."""
        return Description("write", f"version {self.bundle.version}", f"to the second slot, with {TRIES} tries")

    def apply(self, box: Box) -> None:
        """See Step. Raises Unhealthy when systemd-sysupdate did not do it."""
        box.record.set_forms({self.running: self.known, self.bundle.version: self.bundle.catalog})
        box.record.set_trial(Trial(str(self.bundle.version), str(self.running)))
        source = f"--transfer-source={self.bundle.folder}"
        words, made = [SYSUPDATE, "--no-pager", "--verify=no", source, "update", str(self.bundle.version)], self.bundle
        with _watched(box.bar, f"writing version {made.version}", made.usr_size + made.verity_size + made.uki_size):
            box.runner.run(words, timeout=DEADLINE)
        there = [uki for file in box.boot.iterdir() if (uki := parse_uki(file.name))]
        if not any(uki.version == self.bundle.version and uki.tries_left == TRIES for uki in there):
            raise Unhealthy(
                f"version {self.bundle.version} is not there after it was written",
                why="systemd-sysupdate found nothing to do",
                hint=f"look at `{SYSUPDATE} list`",
            )


@dataclass(frozen=True, slots=True)
class StepBack:
    """Let the next start pass over a version, as if it had used up its tries. ``note`` is kept as the reason."""

    uki: Uki
    to: Version
    note: str = ""

    def describe(self) -> Description:
        """See Step."""
        return Description("pass over", self.uki.name, f"version {self.to} is started next")

    def apply(self, box: Box) -> None:
        """See Step."""
        if self.note:
            box.record.set_trial(Trial(str(self.uki.version), str(self.to), (self.note,)))
        (box.boot / self.uki.name).rename(box.boot / Uki(self.uki.version, 0, TRIES).name)


def update(bundle: Bundle, seen: Slots, forms: Forms, wish: Wish, ailments: Sequence[str] = ()) -> Steps:
    """The steps that bring a bundle's version to the next start; none when it runs, or only has to be started.

    ``ailments`` is why the new version would be given up even if nothing is wrong with it. Raises Refused, InUse,
    NoSpace, Unhealthy.
    """
    current = settled(seen)
    installed = seen.of(bundle.version)
    if bundle.version == seen.running or (installed is not None and seen.next() == bundle.version):
        return ()
    check_catalog(bundle.version, bundle.catalog, forms)
    if bundle.catalog > forms.known and forms.there is not None and not wish.no_way_back:
        raise Refused(
            f"there is no way back from version {bundle.version}",
            why=f"it changes the catalog to form {bundle.catalog}, and version {seen.running}, to which the box would "
            f"fall back, knows {forms.known}",
            hint="back up with `hatchery store backup --to DIR`, then say --no-way-back",
        )
    older = bundle.version < seen.running
    if older and not wish.older:
        raise Refused(
            f"version {bundle.version} is not newer",
            why=f"version {seen.running} runs",
            hint="to go back to an older one, say --older",
        )
    if installed is not None and installed.given_up and not wish.again:
        raise Refused(
            f"version {bundle.version} was given up before",
            why="it failed its tries, or somebody went back from it",
            hint="`hatchery-update status` says why; to try again, say --again",
        )
    check_room(bundle, seen)
    if ailments and not wish.unhealthy:
        raise Unhealthy(
            f"version {bundle.version} would be given up",
            why=f"this appliance would not pass now what it is asked after a restart: {'; '.join(ailments)}",
            hint="mend that first; if the new version does, say --unhealthy",
        )
    used = tuple(half for half in spare(seen) if half.name != EMPTY)
    first: Steps = (Empty(seen.others, used),) if seen.others or used else ()
    # An older version would not be started by itself while a newer one is good.
    last: Steps = (StepBack(current, bundle.version),) if older else ()
    return (*first, Install(bundle, seen.running, forms.known), *last)


def back(seen: Slots, forms: Forms, form_of_other: int | None) -> Steps:
    """The steps that let the next start be that of the other slot. Raises Refused, NotFound, InUse, NotReady."""
    current = settled(seen)
    candidates = [uki for uki in seen.others if uki.good]
    if not candidates:
        raise NotFound("there is no version to go back to", why="the other slot holds none that was found good")
    other = candidates[-1]
    if other.version > seen.running:
        raise NotReady(f"version {other.version} is newer", why="it waits for a restart", hint="restart")
    if forms.there is not None:
        if form_of_other is None:
            raise Refused(
                f"whether version {other.version} can open this store's catalog is not known",
                why="it was not there when this version was written",
                hint="apply its bundle with --older",
            )
        check_catalog(other.version, form_of_other, forms)
    return (StepBack(current, other.version, WENT_BACK),)


def settled(seen: Slots) -> Uki:
    """What runs, which must be the way back.

    Raises InUse while it is on trial itself, Unhealthy when its file is gone.
    """
    current = seen.current
    if current is None:
        raise Unhealthy(
            "there is no way back",
            why=f"version {seen.running} runs, and its file on the EFI system partition is gone",
            hint="write the image to the disk again; the store on the other disks stays as it is",
        )
    if current.counted:
        raise InUse(
            f"version {seen.running} is on trial itself",
            why="it was not found good yet",
            hint="`hatchery-update status` says how it stands",
        )
    return current


def check_catalog(of: Version, form: int, forms: Forms) -> None:
    """Refuse a version that cannot open the store's catalog. Raises Refused."""
    if forms.there is not None and form < forms.there:
        raise Refused(
            f"version {of} cannot open this store's catalog",
            why=f"it knows form {form}, and the catalog has form {forms.there}",
            hint="a newer version can",
        )


def check_room(bundle: Bundle, seen: Slots) -> None:
    """Refuse what does not fit. Raises NoSpace, Unhealthy."""
    for half in spare(seen):
        needed = bundle.usr_size if half.kind == USR else bundle.verity_size
        if half.size < needed:
            raise NoSpace(
                f"version {bundle.version} does not fit",
                why=f"a partition of the second slot has {half.size} bytes, and {needed} are needed",
                hint="write the image to the disk again; the store on the other disks stays as it is",
            )
    room = seen.free + sum(uki.size for uki in seen.others)
    if room < bundle.uki_size:
        raise NoSpace(
            f"version {bundle.version} does not fit",
            why=f"the EFI system partition has {room} bytes for it, and {bundle.uki_size} are needed",
            hint="take out of /boot what is not the appliance's",
        )


def explain(error: HatcheryError) -> dict[str, str]:
    """An error as plain values for JSON."""
    return {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
