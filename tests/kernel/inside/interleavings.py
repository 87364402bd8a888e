"""Clones and templates in random order against a model that knows each block: content and space, exactly.

The machine is hypothesis' and runs inside, with the service in its process: a step costs no more than the operation.
"""

import itertools
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from appliance import wait
from appliance.model import KIB, MIB, CloneKind, PoolName
from appliance.service.templates import Removing
from tests.kernel.inside.crash_box import SIZE, Box, finish, image
from tests.kernel.inside.nbd_client import NbdClient

BLOCK = 64 * KIB
GRAIN = 4 * KIB
MOST_CLONES, MOST_TEMPLATES = 7, 4
EXAMPLES = 4
"""With one seed. The first example of each is the dullest that there is."""

BASE = "base@1"
ROOM = 3 * MIB
"""No volume becomes larger."""

_fresh = itertools.count(1)
_any = st.integers(0, 59)
"""Which of those that there are: the remainder counts."""


@dataclass
class Volume:
    """Content, and the pool's block behind each piece of it that has one; two volumes may share a block."""

    content: bytearray
    blocks: dict[int, int] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        """Each block that is touched becomes the volume's own."""
        self.content[offset : offset + len(data)] = data
        for index in range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1):
            self.blocks[index] = next(_fresh)

    def trim(self, offset: int, length: int, below: bytes) -> None:
        """Blocks that are covered whole are given back, and show what is ``below``; others stay as they are."""
        for index in range(-(-offset // BLOCK), (offset + length) // BLOCK):
            if index in self.blocks:
                del self.blocks[index]
                at = index * BLOCK
                piece = below[at : at + BLOCK]
                self.content[at : at + BLOCK] = piece.ljust(len(self.content[at : at + BLOCK]), b"\0")


@dataclass
class CloneModel(Volume):
    """A clone. ``origin`` is the template that it comes from."""

    kind: CloneKind = CloneKind.DURABLE
    attached: bool = True
    origin: str = BASE


@dataclass
class Score:
    """What was done, over all examples."""

    steps: int = 0
    clones: int = 0
    trimmed: int = 0


class Here:
    """The box that all examples use, one after the other."""

    box: Box
    score: Score


class Interleavings(RuleBasedStateMachine):
    """One example: it begins and ends with the template ``base`` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Here.box
        self.clones: dict[str, CloneModel] = {}
        self.templates = {BASE: imported(image(1))}
        self.retired: set[str] = set()

    # --- choosing

    def _clone(self, which: int, *, attached: bool = False) -> str:
        names = [name for name, clone in self.clones.items() if clone.attached or not attached]
        return names[which % len(names)]

    def _writable(self) -> bool:
        return any(clone.attached for clone in self.clones.values())

    def _usable(self) -> list[str]:
        return [ref for ref in self.templates if ref not in self.retired]

    # --- clones come and go

    @precondition(lambda self: len(self.clones) < MOST_CLONES)
    @rule(which=_any, kind=st.sampled_from(CloneKind), count=st.integers(1, 5))
    def create(self, which: int, kind: CloneKind, count: int) -> None:
        """Make clones of a template."""
        usable = self._usable()
        ref = usable[which % len(usable)]
        name = f"c{next(_fresh)}"
        self.box.clone(name, ref, kind=kind, count=count)
        for number in range(1, count + 1):
            self.clones[f"{name}-{number}"] = fresh_clone(self.templates[ref], kind, ref)
        Here.score.clones += count

    @precondition(lambda self: self.clones)
    @rule(which=_any)
    def remove(self, which: int) -> None:
        """Remove a clone."""
        name = self._clone(which)
        self.box.drop(name)
        self._forget(name)

    @precondition(lambda self: self.clones)
    @rule(which=_any)
    def expire(self, which: int) -> None:
        """Let a clone's lease end, and have the collector come round."""
        name = self._clone(which)
        self.box.service.life.renew(name, 0.001)
        core = self.box.service.core
        wait.until(lambda: core.catalog.expired_clones(core.now()), "a lease to end", deadline=5)
        finish(self.box.service.collect())
        self._forget(name)

    def _forget(self, name: str) -> None:
        origin = self.clones.pop(name).origin
        if origin in self.retired and not self._dependents(origin):
            del self.templates[origin]

    def _dependents(self, ref: str) -> list[str]:
        return [name for name, clone in self.clones.items() if clone.origin == ref]

    # --- guests

    @precondition(lambda self: self._writable())
    @rule(which=_any, start=st.integers(0, SIZE // GRAIN - 1), length=st.integers(1, 80), seed=_any)
    def write(self, which: int, start: int, length: int, seed: int) -> None:
        """Write some grains, flushed."""
        name = self._clone(which, attached=True)
        offset = start * GRAIN
        size = min(length * GRAIN, len(self.clones[name].content) - offset)
        data = random.Random(seed).randbytes(size)
        with NbdClient(name) as client:
            client.write(offset, data)
            client.flush()
        self.clones[name].write(offset, data)
        self._compare(name)

    @precondition(lambda self: self._writable())
    @rule(which=_any, start=st.integers(0, SIZE // GRAIN - 1), length=st.integers(1, 200))
    def trim(self, which: int, start: int, length: int) -> None:
        """Trim some grains: whole blocks are given back, of others nothing."""
        name = self._clone(which, attached=True)
        clone = self.clones[name]
        offset = start * GRAIN
        size = min(length * GRAIN, len(clone.content) - offset)
        with NbdClient(name) as client:
            client.trim(offset, size)
            client.flush()
        before = len(clone.blocks)
        clone.trim(offset, size, below(clone, self.templates))
        Here.score.trimmed += before - len(clone.blocks)
        self._compare(name)

    # --- their life

    @precondition(lambda self: self.clones)
    @rule(which=_any)
    def attach_or_detach(self, which: int) -> None:
        """Detach an attached clone, attach a detached one."""
        name = self._clone(which)
        clone = self.clones[name]
        if clone.attached:
            self.box.service.clones.detach(name, force=False)
        else:
            self.box.service.clones.attach(name, "local")
        clone.attached = not clone.attached

    @precondition(lambda self: self.clones)
    @rule(which=_any)
    def reset(self, which: int) -> None:
        """Reset a clone."""
        name = self._clone(which)
        old = self.clones[name]
        self.box.service.life.reset(name, force=False)
        self.clones[name] = fresh_clone(self.templates[old.origin], old.kind, old.origin, attached=old.attached)

    @precondition(lambda self: self.clones)
    @rule(which=_any, more=st.integers(1, 8))
    def resize(self, which: int, more: int) -> None:
        """Make a clone larger."""
        name = self._clone(which)
        clone = self.clones[name]
        size = min(len(clone.content) + more * BLOCK, ROOM)
        self.box.service.life.resize(name, size)
        clone.content.extend(bytes(size - len(clone.content)))

    @precondition(lambda self: self.clones and len(self.templates) < MOST_TEMPLATES)
    @rule(which=_any)
    def promote(self, which: int) -> None:
        """Make a clone a template."""
        name = self._clone(which)
        clone = self.clones[name]
        job = self.box.service.life.promote(name, f"t{next(_fresh)}")
        finish(job)
        if clone.kind is CloneKind.EPHEMERAL:
            self.templates[job.operation.subject] = imported(bytes(clone.content))
        else:
            self.templates[job.operation.subject] = Volume(bytearray(clone.content), dict(clone.blocks))

    @precondition(lambda self: len(self.templates) > 1)
    @rule(which=_any)
    def retire(self, which: int) -> None:
        """Remove a template, now or with its last clone."""
        refs = [ref for ref in self.templates if ref != BASE]
        ref = refs[which % len(refs)]
        self.box.service.templates.remove(ref, Removing.WHEN_UNUSED)
        if self._dependents(ref):
            self.retired.add(ref)
        else:
            del self.templates[ref]

    @precondition(lambda self: self.clones)
    @rule()
    def collect(self) -> None:
        """A collection changes nothing when there is no garbage."""
        finish(self.box.service.collect())

    # --- what must hold

    @invariant()
    def space_is_exact(self) -> None:
        """The pools use the blocks of the model, no more and no less."""
        Here.score.steps += 1
        durable: list[Volume] = [clone for clone in self.clones.values() if clone.kind is CloneKind.DURABLE]
        fast: list[Volume] = [clone for clone in self.clones.values() if clone.kind is CloneKind.EPHEMERAL]
        wanted = {PoolName.DURABLE: used([*durable, *self.templates.values()]), PoolName.FAST: used(fast)}
        found = {name: pool.status().data_used for name, pool in self.box.service.core.pools.items()}
        assert found == wanted, f"in blocks: {_in_blocks(found)}, not {_in_blocks(wanted)}"

    def _compare(self, name: str) -> None:
        with NbdClient(name) as client:
            found = b"".join(client.read(at, min(MIB, client.size - at)) for at in range(0, client.size, MIB))
        wanted = bytes(self.clones[name].content)
        assert len(found) == len(wanted)
        wrong = [
            at // GRAIN for at in range(0, len(wanted), GRAIN) if found[at : at + GRAIN] != wanted[at : at + GRAIN]
        ]
        assert not wrong, f"{name}, a {self.clones[name].kind} clone: grains {wrong} are not what they should be"

    def teardown(self) -> None:
        """Compare everything, remove everything: all space is back."""
        try:
            self._compare_all()
        finally:
            # After a failure too: the next example, or the same one again, begins where this one did.
            self._clear()
        self.space_is_exact()

    def _compare_all(self) -> None:
        for name, clone in self.clones.items():
            if clone.attached:
                self._compare(name)
            else:
                assert self.box.content(name) == bytes(clone.content), name
        for ref, template in self.templates.items():
            assert self.box.template_content(ref) == bytes(template.content), ref

    def _clear(self) -> None:
        catalog = self.box.service.core.catalog
        for clone in catalog.clones():
            self.box.drop(clone.name)
        for template in catalog.templates():
            if template.ref != BASE:
                self.box.service.templates.remove(template.ref)
        self.clones, self.templates = {}, {BASE: self.templates[BASE]}


def imported(content: bytes) -> Volume:
    """A template of an image: blocks of zeros have none behind them."""
    volume = Volume(bytearray(content))
    for index, at in enumerate(range(0, len(content), BLOCK)):
        if any(content[at : at + BLOCK]):
            volume.blocks[index] = next(_fresh)
    return volume


def fresh_clone(template: Volume, kind: CloneKind, ref: str, *, attached: bool = True) -> CloneModel:
    """A clone as it is made: a durable one shares the template's blocks, an ephemeral one has none."""
    blocks = dict(template.blocks) if kind is CloneKind.DURABLE else {}
    return CloneModel(bytearray(template.content), blocks, kind, attached, ref)


def below(clone: CloneModel, templates: dict[str, Volume]) -> bytes:
    """What shows where a clone has no block."""
    return bytes(templates[clone.origin].content) if clone.kind is CloneKind.EPHEMERAL else b""


def used(volumes: Iterable[Volume]) -> int:
    """Bytes of the blocks that volumes have together."""
    return len({block for volume in volumes for block in volume.blocks.values()}) * BLOCK


def _in_blocks(found: dict[PoolName, int]) -> dict[str, int]:
    return {str(name): size // BLOCK for name, size in found.items()}


def run(clones: int, steps: int, seed: int) -> Score:
    """Run examples of so many steps until ``clones`` have come and gone.

    Raises AssertionError, with the steps that led there.
    """
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(message)s")
    Here.box, Here.score = Box(), Score()
    Here.box.begin()
    Here.box.bring("base", 1)
    wanted = settings(
        max_examples=EXAMPLES,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        # A shorter story is not worth the time that it takes to find: the steps are printed.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for number in itertools.count(seed):
        run_state_machine_as_test(hypothesis.seed(number)(Interleavings), settings=wanted)
        if Here.score.clones >= clones:
            break
    Here.box.check()
    return Here.score
