"""Updates: what the names of files say, what is planned and what is refused, and who is found good."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.catalog import Catalog, form
from appliance.errors import (
    CannotTell,
    HatcheryError,
    InUse,
    NoSpace,
    NotFound,
    NotReady,
    Refused,
    Unhealthy,
)
from appliance.host import partitions
from appliance.host.partitions import Partition
from appliance.reconcile import apply
from appliance.run import Runner
from appliance.update import plan, selftest, slots, version, view
from appliance.update.bundle import Bundle
from appliance.update.plan import Box, Empty, Forms, Install, StepBack, Wish
from appliance.update.record import REASONS, Record, Trial
from appliance.update.slots import TRIES, USR, USR_VERITY, Slots, Uki
from appliance.update.trial import states
from appliance.update.version import Version

MIB = 1 << 20
A, B, C = (version.parse(text) for text in ("0.1.0", "0.1.1", "0.2.0"))
ROOT = Path(__file__).resolve().parents[2]
EXTRA = ROOT / "mkosi.extra"


def offered(of: Version = B, **change: Any) -> Bundle:
    made = Bundle(Path("/bundle"), of, catalog=3, usr_size=1024 * MIB, verity_size=32 * MIB, uki_size=40 * MIB)
    return replace(made, **change)


def halves(*names: str) -> tuple[Partition, ...]:
    """Those of one slot after the other, by their names."""
    kinds = ((USR_VERITY, 32 * MIB), (USR, 1024 * MIB))
    return tuple(Partition(name, 0, size, "", kind) for name in names for kind, size in kinds)


def box(*ukis: Uki, running: Version = A, other: str = "_empty", **change: Any) -> Slots:
    both = halves(f"hatchery_{running}", other)
    return replace(Slots(running, ukis or (Uki(running),), both, free=200 * MIB), **change)


FORMS = Forms(there=3, known=3)


# --- the slots


def test_the_name_of_a_file_says_how_its_version_stands() -> None:
    for uki in (Uki(A), Uki(A, 3, 0), Uki(A, 0, 3)):
        assert slots.parse_uki(uki.name) == uki
    assert slots.parse_uki("hatchery_0.1.0+3.efi") == Uki(A, 3, 0)
    for other in ("hatchery_0.1.0.efi.bak", "debian_0.1.0.efi", "hatchery_.efi", "hatchery_01.efi", "hatchery_1+a.efi"):
        assert slots.parse_uki(other) is None


def test_what_is_started_next_is_the_newest_that_is_not_given_up() -> None:
    assert box(Uki(A), Uki(B, 3, 0)).next() == B
    assert box(Uki(A), Uki(B, 0, 3)).next() == A
    assert box(Uki(A, 0, 3), Uki(B, 0, 3)).next() == B


def test_the_running_version_is_the_images_own() -> None:
    assert slots.parse_os_release('ID=debian\nIMAGE_ID="hatchery"\nIMAGE_VERSION="0.1.1"\n') == B
    with pytest.raises(NotReady, match="cannot be updated"):
        slots.parse_os_release('ID=debian\nVERSION_ID="13"\n')


def test_partitions_have_the_type_and_number_that_they_were_given() -> None:
    table = partitions.parse((Path(__file__).parents[1] / "data/sfdisk/2.41-gpt.bin").read_bytes(), 512)
    assert table is not None
    linux = "0fc63daf-8483-4772-8e79-3d69d8477de4"
    assert [(one.kind, one.number) for one in table.partitions] == [(linux, number) for number in (1, 2, 3)]


# --- what is planned


def test_a_newer_version_is_written_to_the_other_slot() -> None:
    assert plan.update(offered(), box(), FORMS, Wish()) == (Install(offered(), A, 3),)


def test_what_runs_or_waits_for_its_start_is_not_written_again() -> None:
    assert plan.update(offered(A), box(), FORMS, Wish()) == ()
    assert plan.update(offered(B), box(Uki(A), Uki(B, 3, 0)), FORMS, Wish()) == ()


def test_a_newer_version_takes_the_place_of_one_that_waits() -> None:
    waits = box(Uki(A), Uki(B, 3, 0), other="hatchery_0.1.1")
    assert plan.update(offered(C), waits, FORMS, Wish()) == (
        Empty((Uki(B, 3, 0),), halves("hatchery_0.1.1")),
        Install(offered(C), A, 3),
    )


def test_half_a_slot_is_not_taken_for_whole() -> None:
    verity, _ = halves("hatchery_0.1.1")
    _, usr = halves("_empty")
    broken_off = box(partitions=(*halves("hatchery_0.1.0"), verity, usr))
    assert plan.update(offered(), broken_off, FORMS, Wish()) == (Empty((), (verity,)), Install(offered(), A, 3))


def test_an_older_version_must_be_wanted_and_is_then_started_next() -> None:
    running_b = box(Uki(B), running=B)
    with pytest.raises(Refused, match="not newer"):
        plan.update(offered(A), running_b, FORMS, Wish())
    steps = plan.update(offered(A), running_b, FORMS, Wish(older=True))
    assert steps == (Install(offered(A), B, 3), StepBack(Uki(B), A))


def test_a_version_that_was_given_up_is_tried_again_when_wanted() -> None:
    failed = box(Uki(A), Uki(B, 0, 3))
    with pytest.raises(Refused, match="given up before"):
        plan.update(offered(), failed, FORMS, Wish())
    assert plan.update(offered(), failed, FORMS, Wish(again=True)) == (
        Empty((Uki(B, 0, 3),), ()),
        Install(offered(), A, 3),
    )


def test_a_version_on_trial_is_no_way_back() -> None:
    for name in (Uki(A, 2, 1), Uki(A, 0, 3)):
        with pytest.raises(InUse, match="on trial itself"):
            plan.update(offered(), box(name), FORMS, Wish())
    # Started although it was given up, because there was nothing else: an update may mend that.
    assert plan.update(offered(), box(Uki(A, 0, 4)), FORMS, Wish())


def test_a_version_that_cannot_open_the_catalog_is_refused_whatever_is_wanted() -> None:
    everything = Wish(again=True, older=True, no_way_back=True, unhealthy=True)
    with pytest.raises(Refused, match="cannot open this store's catalog"):
        plan.update(offered(catalog=2), box(), FORMS, everything)
    # Where there is no store there is nothing to open.
    assert plan.update(offered(catalog=2), box(), Forms(None, 3), Wish())


def test_a_version_that_leaves_a_catalog_nobody_else_can_open_must_be_wanted() -> None:
    with pytest.raises(Refused, match="no way back") as caught:
        plan.update(offered(catalog=4), box(), FORMS, Wish())
    assert "--no-way-back" in caught.value.hint
    assert plan.update(offered(catalog=4), box(), FORMS, Wish(no_way_back=True))
    assert plan.update(offered(catalog=4), box(), Forms(None, 3), Wish())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"usr_size": 1025 * MIB}, NoSpace),
        ({"verity_size": 33 * MIB}, NoSpace),
        ({"uki_size": 201 * MIB}, NoSpace),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], error: type[HatcheryError]) -> None:
    with pytest.raises(error, match="does not fit"):
        plan.update(offered(**change), box(), FORMS, Wish())


def test_what_goes_makes_room() -> None:
    old = Uki(version.parse("0.0.9"), size=40 * MIB)
    assert plan.update(offered(uki_size=240 * MIB), box(old, Uki(A)), FORMS, Wish())


def test_a_disk_without_a_second_slot_is_refused() -> None:
    one = box(partitions=halves("hatchery_0.1.0"))
    with pytest.raises(Unhealthy, match="no second slot"):
        plan.update(offered(), one, FORMS, Wish())


def test_an_appliance_that_would_not_pass_is_not_updated_unless_wanted() -> None:
    with pytest.raises(Unhealthy, match="would be given up") as caught:
        plan.update(offered(), box(), FORMS, Wish(), ["the pool is full"])
    assert "the pool is full" in caught.value.why
    assert plan.update(offered(), box(), FORMS, Wish(unhealthy=True), ["the pool is full"])


def test_going_back_takes_a_good_older_version_that_can_open_the_catalog() -> None:
    both = box(Uki(A), Uki(B), running=B)
    [step] = plan.back(both, FORMS, 3)
    assert isinstance(step, StepBack)
    assert (step.uki, step.to) == (Uki(B), A)
    with pytest.raises(Refused, match="cannot open"):
        plan.back(both, FORMS, 2)
    with pytest.raises(Refused, match="not known"):
        plan.back(both, FORMS, None)
    with pytest.raises(NotFound, match="no version to go back to"):
        plan.back(box(), FORMS, 3)
    with pytest.raises(NotFound):
        plan.back(box(Uki(A, 0, 3), Uki(B), running=B), FORMS, 3)
    with pytest.raises(NotReady, match="waits for a restart"):
        plan.back(box(Uki(A), Uki(B)), FORMS, 3)


def test_a_step_back_is_as_if_all_tries_were_used_up(tmp_path: Path) -> None:
    (tmp_path / Uki(B).name).touch()
    made = Box(Runner(), tmp_path, Record(tmp_path / "record"))
    apply([StepBack(Uki(B), A, "an operator went back")], made)
    assert [file.name for file in tmp_path.glob("*.efi")] == [f"hatchery_0.1.1+0-{TRIES}.efi"]
    assert made.record.trial() == Trial("0.1.1", "0.1.0", ("an operator went back",))
    apply([Empty((Uki(B, 0, TRIES),), ())], made)
    assert list(tmp_path.glob("*.efi")) == []


def test_the_tries_are_those_of_the_transfer() -> None:
    lines = (EXTRA / "usr/lib/sysupdate.d/30-uki.transfer").read_text().splitlines()
    assert {f"TriesLeft={TRIES}", "TriesDone=0", "ProtectVersion=%A"} <= set(lines)
    # No counting for the image that is written to a disk: there would be nothing to fall back to.
    assert not (EXTRA / "etc/kernel/tries").exists()


# --- what is remembered


def test_reasons_are_kept_and_shown_when_a_version_was_given_up(tmp_path: Path) -> None:
    record = Record(tmp_path / "new")
    assert record.trial() is None
    record.set_trial(Trial("0.1.1", "0.1.0"))
    for number in range(REASONS + 2):
        known = record.trial()
        assert known is not None
        record.set_trial(known.failed(f"reason {number}"))
    found = record.trial()
    assert found is not None
    assert found.reasons[-1] == f"reason {REASONS + 1}"
    assert len(found.reasons) == REASONS
    assert view.verdict(box(Uki(A), Uki(B, 2, 1)), found) is None
    said = view.verdict(box(Uki(A), Uki(B, 0, 3)), found)
    assert said is not None
    assert said.startswith("version 0.1.1 was given up, and version 0.1.0 runs: reason 2 | ")
    silent = view.verdict(box(Uki(A), Uki(B, 0, 3)), Trial("0.1.1", "0.1.0"))
    assert silent is not None
    assert "no start of it came so far" in silent
    record.end_trial()
    record.end_trial()
    assert record.trial() is None


def test_one_at_a_time_changes_the_slots(tmp_path: Path) -> None:
    with Record(tmp_path).exclusive(), pytest.raises(InUse, match="being changed"), Record(tmp_path).exclusive():
        pytest.fail("both were let in")
    with Record(tmp_path).exclusive():
        pass


def test_forms_are_those_of_the_last_update(tmp_path: Path) -> None:
    record = Record(tmp_path)
    assert record.form(A) is None
    record.set_forms({A: 3, B: 4})
    record.set_forms({B: 4, C: 5})
    assert [record.form(of) for of in (A, B, C)] == [None, 4, 5]
    (tmp_path / "forms.json").write_text("{")
    with pytest.raises(CannotTell):
        record.form(A)


def test_the_status_says_how_each_version_stands() -> None:
    states = {
        box(): ["runs"],
        box(Uki(A), Uki(B, 3, 0)): ["is started next", "runs"],
        box(Uki(A), Uki(B, 2, 1), running=B): ["runs, on trial", "can be gone back to"],
        box(Uki(A), Uki(B, 0, 3), running=B): ["runs, on trial", "is started next"],
        box(Uki(A), Uki(B, 0, 3)): ["given up", "runs"],
        box(Uki(A, 0, 3), Uki(B, 0, 4), running=B): ["runs though it was given up", "given up"],
    }
    for seen, wanted in states.items():
        found = view.as_json(seen, None)
        assert [slot["state"] for slot in found["slots"]] == wanted
        assert json.loads(json.dumps(found)) == found
        assert len(view.as_text(found).splitlines()) == len(wanted)


def test_the_catalogs_form_is_read_beside_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "catalog.db"
    assert form.of(file) is None
    catalog = Catalog(file)
    assert form.of(file) == form.KNOWN
    catalog.close()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(CannotTell):
        form.of(file)


# --- the trial


def test_what_systemd_says_of_units() -> None:
    assert states("Id=a.service\nActiveState=active\n\nId=b.service\nActiveState=failed\n") == {
        "a.service": "active",
        "b.service": "failed",
    }


def test_the_self_test_writes_at_both_ends_and_reads_it_back_in_another_connection() -> None:
    written, read = selftest.commands(10 * MIB + 512)
    assert written == ("write -q -P 0xa5 0 65536", "write -q -P 0xa5 10420224 65536", "flush")
    assert read == ("read -q -P 0xa5 0 65536", "read -q -P 0xa5 10420224 65536", "read -q 65536 65536")
    assert selftest.commands(4096) == (("write -q -P 0xa5 0 4096", "flush"), ("read -q -P 0xa5 0 4096",))
