"""``hatchery-store setup``: make a part of the store, or show what would be done. Repeating it changes nothing.

Cut off at any moment, it finishes its work when it is run again: every thing that it makes is recognised as its own,
and the settings file is written last.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from appliance.config import (
    BackendConfig,
    CacheMode,
    Config,
    Part,
    Section,
    StoreConfig,
    parse_section,
    render_section,
)
from appliance.errors import HatcheryError, InvalidInput, NotReady, Refused
from appliance.host import block, kernel
from appliance.model import KIB
from appliance.reconcile import Description, apply
from appliance.store import backend, cache_mirror, disks, durable, mirror, names, nvme, start
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making

log = logging.getLogger(__name__)

LARGEST_BLOCK = 1024
"""KiB in the largest block of a pool."""

MOST_RESERVE = 50
"""Percent of a data device that may be held back."""


class Doing(Enum):
    """Whether the plan is carried out."""

    APPLY = "apply"
    CHECK = "check"


@dataclass(frozen=True, slots=True)
class Spec:
    """What is wanted of one part, and the serial numbers of disks that may be wiped for it."""

    section: Section
    wipe: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Result:
    """What was done, or would be. ``before`` and ``after`` are the settings file's text."""

    steps: tuple[Description, ...]
    before: str
    after: str

    @property
    def changed(self) -> bool:
        """Whether anything was (or would be) different afterwards."""
        return bool(self.steps) or self.before != self.after


def parse_spec(part: Part, values: object) -> Spec:
    """Read a specification: the keys of the part's settings, and ``wipe``. Raises InvalidInput."""
    if not isinstance(values, Mapping):
        raise InvalidInput(
            "the specification is not a JSON object", why=f"it is {type(values).__name__}", hint="the roles write one"
        )
    rest: dict[str, Any] = {str(key): value for key, value in values.items() if value is not None}
    wipe = rest.pop("wipe", [])
    if not isinstance(wipe, list) or not all(isinstance(serial, str) and serial for serial in wipe):
        raise InvalidInput(
            "`wipe` is not a list of serial numbers", why=f"it is {wipe!r:.60}", hint="for example `[S7KHNJ0W100001]`"
        )
    section = parse_section(part, rest, "specification")
    _refuse_odd(section)
    return Spec(section, frozenset(wipe))


def _refuse_odd(section: Section) -> None:
    if isinstance(section, BackendConfig) and (section.chunk_kib < 4 or section.chunk_kib & (section.chunk_kib - 1)):
        raise InvalidInput(f"{section.chunk_kib} KiB is not a chunk size", why="it must be a power of two from 4 on")
    if isinstance(section, StoreConfig):
        if not 64 <= section.block_kib <= LARGEST_BLOCK or section.block_kib % 64:
            raise InvalidInput(
                f"{section.block_kib} KiB is not a block size",
                why=f"it must be a multiple of 64 from 64 to {LARGEST_BLOCK}",
            )
        if section.reserve_percent > MOST_RESERVE:
            raise InvalidInput(
                f"a reserve of {section.reserve_percent} % is too much", why=f"{MOST_RESERVE} is the most"
            )


def refuse_unsafe(config: Config) -> None:
    """Raise Refused for writeback with one NVMe drive, and for a drive that is to be cache and backend at once."""
    named = {_identity(path): path for path in (config.nvme.devices if config.nvme is not None else ())}
    for path in config.backend.disks if config.backend is not None else ():
        if _identity(path) in named:
            raise Refused(
                f"{path} is named for the backend and for the cache",
                why=f"it is the drive {named[_identity(path)]}",
                hint="name each drive once",
            )
    if config.store is None or config.store.cache_mode is not CacheMode.WRITEBACK:
        return
    if config.nvme is not None and len(config.nvme.devices) < 2:
        raise Refused(
            f"cache mode {config.store.cache_mode} is refused",
            why="with one NVMe drive, its death would lose what was not written to the backend yet",
            hint="use writethrough, or name a second NVMe drive",
        )


def refuse_large_sectors(config: Config) -> None:
    """Raise Refused for an NVMe drive whose sectors are larger than the disks'.

    The metadata mirror has the largest sectors of its legs. Without that drive it would have smaller ones, and its
    partition table would not be found any more.
    """
    drives = [block.find(path) for path in (config.nvme.devices if config.nvme is not None else ())]
    disks_ = [block.find(path) for path in (config.backend.disks if config.backend is not None else ())]
    most = max((drive.logical_block for drive in drives if drive is not None), default=0)
    least = min((disk.logical_block for disk in disks_ if disk is not None), default=most)
    if most > least:
        raise Refused(
            "the NVMe drive has larger sectors than the disks",
            why=f"{most} bytes against {least}",
            hint=f"format it with sectors of {least} bytes (`nvme format`), which destroys what is on it",
        )


def _identity(path: str) -> str:
    """What is the same for two names of one drive."""
    device = block.find(path)
    return device.number if device is not None else path


def run(machine: Machine, part: Part, spec: Spec, doing: Doing) -> Result:
    """Plan a part and, unless it is only checked, carry the plan out. Raises HatcheryError."""
    machine = Machine(_with(machine.config, part, spec.section), machine.runner)
    refuse_unsafe(machine.config)
    if doing is Doing.APPLY:
        kernel.require()
        kernel.load_modules(machine.runner)
        if part is Part.BACKEND:
            nvme.meta_bytes(machine.config.require_nvme())  # what is not ready leaves the settings as they are
    work: Mapping[Part, Callable[[Machine, Spec, Doing], tuple[Description, ...]]] = {
        Part.NVME: _nvme,
        Part.BACKEND: _backend,
        Part.STORE: _store,
    }
    file = machine.config.paths.conf_d / part.file_name
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    after = render_section(part, spec.section)
    if doing is Doing.APPLY and part is Part.BACKEND and before not in ("", after):
        # A growth is recorded before it is begun: a start in the middle of it must know the new disks.
        work[part](machine, spec, Doing.CHECK)
        write_file(file, after)
    steps = work[part](machine, spec, doing)
    if doing is Doing.APPLY and before != after:
        write_file(file, after)
    return Result(steps, before, after)


def _with(config: Config, part: Part, section: Section) -> Config:
    changes: dict[str, Any] = {part.value: section}
    return replace(config, **changes)


def _finish(steps: StoreSteps, machine: Machine, doing: Doing) -> tuple[Description, ...]:
    if doing is Doing.CHECK:
        return tuple(step.describe() for step in steps)
    return apply(steps, machine)


def _nvme(machine: Machine, spec: Spec, doing: Doing) -> tuple[Description, ...]:
    wanted = machine.config.require_nvme()
    nvme.require_count(wanted)
    drives = tuple(disks.observe(machine, path) for path in wanted.devices)
    disks.refuse_twice(drives)
    fit = nvme.Fit(
        drive=min(drive.size for drive in drives),
        meta=_leg_bytes(machine, drives),
        cache=cache_mirror.needed(machine),
    )
    steps: StoreSteps = ()
    for drive in drives:
        device = block.get(drive.path)
        known = frozenset(
            part.name
            for part in (drive.table.partitions if drive.table else ())
            if any((found.start, found.size) == (part.start, part.size) for found in block.partitions(device))
        )
        steps = (*steps, *nvme.plan(wanted, spec.wipe, drive, known, fit))
    if any(isinstance(step, nvme.CreatePartitions) for step in steps):
        refuse_large_sectors(machine.config)
    return _finish(steps, machine, doing)


def _leg_bytes(machine: Machine, drives: tuple[disks.Disk, ...]) -> int:
    """Size of the metadata mirror's legs that there are, which those on new drives must have as well; 0: none yet."""
    for drive in drives:
        found = drive.table.named(names.PART_META) if drive.table is not None else None
        if found is not None:
            return found.size
    try:
        return backend.part(machine.config.require_backend(), names.PART_META).size
    except HatcheryError:
        return 0


def _backend(machine: Machine, spec: Spec, doing: Doing) -> tuple[Description, ...]:
    wanted = machine.config.require_backend()
    meta = _fast_leg_bytes(machine)
    # While there is no store its blocks may still become larger: it says so itself when they are too small.
    store = machine.config.store or StoreConfig(block_kib=LARGEST_BLOCK)
    block_bytes = store.block_kib * KIB

    def plan() -> StoreSteps:
        steps = backend.plan(wanted, spec.wipe, backend.observe(machine, wanted), meta, block_bytes)
        if any(isinstance(step, backend.CreateBackend) for step in steps):
            refuse_large_sectors(machine.config)
        return steps

    if doing is Doing.CHECK:
        # An array that exists but does not run hides its table: what a start would show is not a change to plan for.
        steps = plan()
        running = [step for step in steps if not isinstance(step, backend.PartitionBackend)]
        only_start = all(isinstance(step, backend.AssembleBackend) for step in running)
        if not steps:
            return start.check_growth(machine)
        return tuple(step.describe() for step in (running if running and only_start else steps))
    done: tuple[Description, ...] = ()
    first = plan()
    if first and isinstance(first[0], backend.AssembleBackend):
        done = apply(first[:1], machine)
        first = plan()
    done = (*done, *apply(first, machine))
    return (*done, *start.finish_growth(machine))


def _fast_leg_bytes(machine: Machine) -> int:
    """Size of the metadata mirror's legs on NVMe; 0 while there are none: disks can be examined all the same."""
    try:
        return nvme.meta_bytes(machine.config.require_nvme())
    except NotReady:
        return 0


def _store(machine: Machine, spec: Spec, doing: Doing) -> tuple[Description, ...]:
    del spec
    store = machine.config.require_store()
    nvme_config, backend_config = machine.config.require_nvme(), machine.config.require_backend()
    if not nvme.parts(nvme_config, names.PART_META):
        raise NotReady("the NVMe drive is not set up", hint="run the role nvme_cache")
    if doing is Doing.APPLY:
        members, array = backend.observe_start(backend_config)
        done = apply(backend.plan_start(backend_config, members, array), machine)
        _refuse_small_blocks(machine, store)
        done += start.raise_stack(machine, Making.ALLOWED)
        durable.verify(machine, store)
        return done + _fast(lambda: start.raise_fast(machine, Making.ALLOWED))
    return _check_store(machine, store)


def _refuse_small_blocks(machine: Machine, store: StoreConfig) -> None:
    """Raise NoSpace when a pool that is to be made would have more blocks than its metadata can count."""
    if (machine.config.paths.conf_d / Part.STORE.file_name).exists():
        return
    data = sum(part.size for part in backend.data_parts(machine.config.require_backend()))
    backend.refuse_small_metadata(data, nvme.meta_bytes(machine.config.require_nvme()), store.block_kib * KIB)


def _check_store(machine: Machine, store: StoreConfig) -> tuple[Description, ...]:
    """What would be done, as far as can be told while the lower parts are not there."""
    _refuse_small_blocks(machine, store)
    found = mirror.observe(machine)
    steps = [step.describe() for step in mirror.plan(found, Making.ALLOWED, store.state_bytes)]
    steps += start.check_cache(machine)
    fast_steps = _fast(lambda: tuple(step.describe() for step in start.plan_fast(machine, Making.ALLOWED)))
    if found.array is None or not found.array.running:
        steps.append(Description("mount", str(machine.config.paths.state), "the state file system"))
        steps.append(Description("activate", durable.POOL))
        return (*steps, *fast_steps)
    try:
        state = mirror.part(machine, names.PART_STATE)
        metadata = mirror.part(machine, names.PART_POOL_META)
    except NotReady:
        steps.append(Description("format", "state file system", "ext4"))
        steps.append(Description("activate", durable.POOL))
        return (*steps, *fast_steps)
    looked = durable.observe(machine)
    target = str(machine.config.paths.state)
    steps += [step.describe() for step in durable.plan_state(looked, Making.ALLOWED, str(state.path), target)]
    steps += [step.describe() for step in durable.plan_pool(looked, str(metadata.path), target)]
    return (*steps, *fast_steps)


def _fast(work: Callable[[], tuple[Description, ...]]) -> tuple[Description, ...]:
    """The fast pool, unless a part of it went with a drive: what to do about that is an operator's decision."""
    try:
        return work()
    except NotReady as error:
        log.warning("%s", error)
        return ()


def write_file(path: Path, text: str) -> None:
    """Put ``text`` into a file so that after a crash there is the old or the new content, never a part."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    _sync(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, on stable storage when this returns; fine when there is none."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
