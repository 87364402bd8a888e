"""The plan for volumes: pure, so every case is a value."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from appliance.errors import InUse, NotFound
from appliance.model import Access, PoolName
from appliance.reconcile import apply, apply_each
from appliance.reconcile.volumes import (
    Activate,
    Advance,
    Birth,
    Deactivate,
    Delete,
    Devices,
    Disagreement,
    Doomed,
    Found,
    FoundDevice,
    FoundPool,
    Make,
    Origin,
    Orphan,
    Pool,
    Volume,
    Wanted,
    plan,
)

DURABLE, FAST = PoolName.DURABLE, PoolName.FAST
TEMPLATE = Volume(1, DURABLE, "template debian@1", 4096, Devices.SEALED)
CLONE = Volume(2, DURABLE, "clone web", 4096, Devices.EXPORTED, origin=Origin(1, 4096))
SEALED = FoundDevice(Devices.SEALED, 4096)
EXPORTED = FoundDevice(Devices.EXPORTED, 4096)


def found(*ids: int, transaction: int = 7, fast: tuple[int, ...] | None = None, **devices: FoundDevice) -> Found:
    """A durable pool with these volumes, and devices as ``v1=...``."""
    pools = {DURABLE: FoundPool(transaction, frozenset(ids))}
    if fast is not None:
        pools[FAST] = FoundPool(3, frozenset(fast))
    return Found(pools, {int(name[1:]): device for name, device in devices.items()})


def new(volume: Volume, birth: Birth = Birth.SNAPSHOT) -> Volume:
    return Volume(volume.thin_id, volume.pool, volume.owner, volume.size, volume.devices, birth, volume.origin)


def test_what_is_as_it_should_be_needs_nothing() -> None:
    made = plan(Wanted((TEMPLATE, CLONE), (), {DURABLE: 7}), found(1, 2, v1=SEALED, v2=EXPORTED))
    assert (made.steps, made.orphans, made.missing, made.disagreements) == ((), (), (), ())


def test_a_new_clone_is_made_then_agreed_upon_then_brought_up() -> None:
    wanted = new(CLONE)
    made = plan(Wanted((TEMPLATE, wanted), (), {DURABLE: 7}), found(1, v1=SEALED))
    assert made.steps == (Make(wanted), Advance(DURABLE, 7, 8), Activate(wanted))
    assert made.advances == {DURABLE: 8}
    assert made.missing == ()


def test_many_are_made_in_one_transaction_of_each_pool() -> None:
    clones = [new(Volume(n, DURABLE, f"clone {n}", 4096, origin=Origin(1, 4096))) for n in range(2, 12)]
    fast = new(Volume(20, FAST, "clone fast", 4096), Birth.EMPTY)
    made = plan(Wanted((*clones, fast)), found(1, fast=()))
    assert [step for step in made.steps if isinstance(step, Advance)] == [Advance(DURABLE, 7, 8), Advance(FAST, 3, 4)]
    assert made.steps[:11] == (*(Make(clone) for clone in clones), Make(fast))


def test_a_doomed_volume_is_deleted_and_one_that_is_gone_is_not() -> None:
    here, gone = Doomed(5, DURABLE, "clone db was removed"), Doomed(6, DURABLE, "clone dx was removed")
    made = plan(Wanted((), (here, gone)), found(5))
    assert made.steps == (Delete(here), Advance(DURABLE, 7, 8))
    assert plan(Wanted((), (gone,)), found()).steps == ()


def test_nothing_is_asked_of_a_pool_that_is_not_there() -> None:
    ephemeral = Volume(9, FAST, "clone fast", 4096, Devices.EXPORTED, origin=Origin(1, 4096))
    made = plan(Wanted((ephemeral,), (Doomed(10, FAST, "clone old was removed"),)), found(1))
    assert made.steps == ()
    assert made.missing == (ephemeral,)


def test_a_volume_that_nothing_wants_is_an_orphan_and_is_not_touched() -> None:
    made = plan(Wanted((TEMPLATE,)), found(1, 40, v1=SEALED, v40=EXPORTED, fast=(41,)))
    assert made.orphans == (Orphan(40, DURABLE), Orphan(41, FAST))
    assert made.steps == ()


def test_a_lost_volume_is_missing_and_no_device_is_tried() -> None:
    made = plan(Wanted((TEMPLATE, CLONE)), found(1, v1=SEALED))
    assert made.missing == (CLONE,)
    assert made.steps == ()


def test_what_somebody_is_making_is_let_alone() -> None:
    coming = Volume(3, DURABLE, "template fedora@1", 0, Devices.SEALED, Birth.UNDER_WAY)
    importing = FoundDevice(Devices.IMPORT, 8192)
    for state in (found(), found(3), found(3, v3=importing)):
        made = plan(Wanted((coming,)), state)
        assert (made.steps, made.orphans, made.missing) == ((), (), ())


@pytest.mark.parametrize(
    "device",
    [
        FoundDevice(Devices.EXPORTED, 4096, whole=False),
        FoundDevice(Devices.STAGING, 4096),
        None,
    ],
)
def test_devices_that_are_not_right_are_made_right(device: FoundDevice | None) -> None:
    state = found(2) if device is None else found(2, v2=device)
    assert plan(Wanted((CLONE,)), state).steps == (Activate(CLONE),)


def test_devices_of_another_size_are_made_anew() -> None:
    small = FoundDevice(Devices.EXPORTED, 2048)
    assert plan(Wanted((CLONE,)), found(2, v2=small)).steps == (Deactivate(CLONE), Activate(CLONE))


def test_devices_of_a_detached_clone_go() -> None:
    detached = Volume(2, DURABLE, "clone web", 4096)
    assert plan(Wanted((detached,)), found(2, v2=EXPORTED)).steps == (Deactivate(detached),)
    assert plan(Wanted((detached,)), found(2)).steps == ()


@pytest.mark.parametrize(
    ("expected", "doomed", "disagree"),
    [(7, False, False), (None, False, False), (6, False, True), (6, True, False), (5, True, True), (8, True, True)],
)
def test_one_ahead_is_only_explained_by_an_open_intent(expected: int | None, doomed: bool, disagree: bool) -> None:
    intents = (Doomed(5, DURABLE, "clone db was not finished"),) if doomed else ()
    made = plan(Wanted((), intents, {DURABLE: expected}), found(transaction=7))
    assert made.disagreements == ((Disagreement(DURABLE, expected or 0, 7),) if disagree else ())


# --- applying


@dataclass
class Log:
    """A pool that writes down what it is told; ``fails`` says which ids it refuses to deactivate."""

    name: PoolName
    lines: list[str] = field(default_factory=list)
    fails: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    def _say(self, *words: object) -> Path:
        self.lines.append(" ".join(map(str, (self.name, *words))))
        return Path(f"/{words[-1]}")

    def create_thin(self, thin_id: int) -> None:
        self._say("thin", thin_id)

    def create_snapshot(self, thin_id: int, origin: int) -> None:
        self._say("snap", thin_id, origin)

    def delete(self, thin_id: int) -> None:
        if thin_id in self.gone:
            raise NotFound("gone")
        self._say("delete", thin_id)

    def set_transaction_id(self, old: int, new: int) -> None:
        self._say("id", old, new)

    def activate_template(self, thin_id: int, size: int, access: Access) -> Path:
        return self._say("template", access, size, thin_id)

    def activate_staging(self, thin_id: int, size: int) -> Path:
        return self._say("staging", size, thin_id)

    @contextmanager
    def still(self, thin_id: int) -> Iterator[None]:
        self._say("hold", thin_id)
        yield
        self._say("release", thin_id)

    def activate_fetching(self, thin_id: int, size: int) -> Path:
        return self._say("fetching", size, thin_id)

    def origin(self, thin_id: int, size: int, *, whole: bool) -> Path:
        if not whole:
            return self._say("shown", size, thin_id)
        return self.activate_template(thin_id, size, Access.READ_ONLY)

    def activate_clone(self, thin_id: int, size: int, origin: Path | None = None) -> Path:
        return self._say("clone", size, *(() if origin is None else (origin,)), thin_id)

    def activate_ephemeral(self, thin_id: int, size: int, origin: Path) -> Path:
        return self._say("ephemeral", size, origin, thin_id)

    def deactivate(self, thin_id: int) -> None:
        if thin_id in self.fails:
            raise InUse("it is open")
        self._say("down", thin_id)


@dataclass
class Machine:
    lines: list[str] = field(default_factory=list)
    pools: dict[PoolName, Log] = field(default_factory=dict)

    def pool_of(self, name: PoolName) -> Pool:
        return self.pools.setdefault(name, Log(name, self.lines))


def test_steps_do_what_they_say() -> None:
    machine = Machine()
    ephemeral = new(Volume(9, FAST, "clone fast", 8192, Devices.EXPORTED, origin=Origin(1, 4096)), Birth.EMPTY)
    wanted = Wanted((new(CLONE), ephemeral), (Doomed(5, DURABLE, "clone db was removed"),))
    done = apply(plan(wanted, found(1, 5, v1=SEALED, fast=())).steps, machine)
    assert machine.lines == [
        "durable snap 2 1",
        "fast thin 9",
        "durable down 5",
        "durable delete 5",
        "durable id 7 8",
        "fast id 3 4",
        "durable clone 4096 2",
        "durable template read-only 4096 1",
        "fast ephemeral 8192 /1 9",
    ]
    assert str(done[0]) == "make volume 2 of clone web in the durable pool: as a snapshot of volume 1"
    assert str(done[2]) == "delete volume 5 in the durable pool: clone db was removed"


def test_each_step_is_tried_even_if_one_fails() -> None:
    machine = Machine()
    machine.pools[DURABLE] = Log(DURABLE, machine.lines, fails={5}, gone={6})
    doomed = tuple(Doomed(n, DURABLE, "clone was removed") for n in (5, 6, 7))
    failures = apply_each(plan(Wanted((), doomed), found(5, 6, 7)).steps, machine)
    assert machine.lines == ["durable down 6", "durable down 7", "durable delete 7", "durable id 7 8"]
    assert [failure.step for failure in failures] == [Delete(doomed[0])]
    assert isinstance(failures[0].error, InUse)


def test_an_overlay_is_made_empty_over_a_template_that_is_fetched() -> None:
    machine = Machine()
    template = Volume(1, DURABLE, "template far@1", 4096, Devices.FETCHING)
    overlay = Volume(2, DURABLE, "clone web", 4096, Devices.EXPORTED, origin=Origin(1, 4096, whole=False), overlay=True)
    apply(plan(Wanted((template, replace(overlay, birth=Birth.EMPTY))), found(1)).steps, machine)
    assert machine.lines == [
        "durable thin 2",
        "durable id 7 8",
        "durable fetching 4096 1",
        "durable shown 4096 1",
        "durable clone 4096 /1 2",
    ]
    # With all of it here, it stands on the sealed device; a snapshot of the same template does not.
    machine = Machine()
    whole = replace(overlay, origin=Origin(1, 4096))
    volumes = (replace(template, devices=Devices.SEALED), whole, replace(whole, thin_id=3, overlay=False))
    apply(plan(Wanted(volumes), found(1, 2, 3, v1=FoundDevice(Devices.FETCHING, 4096))).steps, machine)
    assert machine.lines == [
        "durable template read-only 4096 1",
        "durable template read-only 4096 1",
        "durable clone 4096 /1 2",
        "durable clone 4096 3",
    ]
