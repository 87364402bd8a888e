"""What the catalog keeps: templates, clones, clients, boot sets, and what is to become of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.catalog import (
    BootRun,
    Catalog,
    Certificate,
    Client,
    Fetch,
    Identity,
    NewClone,
    PoolRow,
    StoredBootSet,
)
from appliance.catalog.boot_sets import CHECKS_KEPT, RUNS_KEPT
from appliance.catalog.clones import _CLONE as CLONE_QUERY
from appliance.errors import AlreadyExists, InUse, NotFound, NotReady, Unhealthy
from appliance.model import (
    MAX_THIN_ID,
    MIB,
    CloneKind,
    Limits,
    PoolName,
    TemplateRef,
    TemplateState,
)
from tests.unit.catalog_rows import ready, template


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog(tmp_path / "catalog.db")
    yield opened
    opened.close()


def test_certificates_are_kept_until_they_end_or_their_client_goes(catalog: Catalog) -> None:
    catalog.put_client(Client("hv1", "tcp", "10.0.0.1", 10809))
    catalog.put_client(Client("hv2", "tcp", "10.0.0.1", 10810))
    first, second = Certificate("01", "hv1", 1.0, 9.0), Certificate("02", "hv1", 2.0, 20.0)
    for made in (first, second, Certificate("03", "hv2", 2.0, 20.0)):
        catalog.add_certificate(made)
    assert catalog.certificates("hv1") == (second, first)
    catalog.revoke_certificates("hv1", ["01", "03"], 5.0)
    catalog.revoke_certificates("hv1", ["01"], 6.0)
    assert [(each.serial, each.revoked) for each in catalog.certificates("hv1")] == [("02", None), ("01", 5.0)]
    assert [each.revoked for each in catalog.certificates("hv2")] == [None], "it is another client's"
    # A change of where it listens is none of who it is.
    catalog.put_client(Client("hv1", "tcp", "10.0.0.2", 10809))
    assert len(catalog.certificates("hv1")) == 2
    catalog.add_certificate(Certificate("04", "hv1", 9.0, 30.0))
    assert [each.serial for each in catalog.certificates("hv1")] == ["04", "02"]
    catalog.drop_client("hv1")
    catalog.put_client(Client("hv1", "tcp", "10.0.0.1", 10809))
    assert catalog.certificates("hv1") == (), "a client of that name is another one"


def test_ids_are_never_given_twice(catalog: Catalog) -> None:
    first = ready(catalog)
    catalog.remove_template(first, "gone", 1.0)
    second = ready(catalog)
    assert second == first + 1
    catalog.skip_thin_ids(40)
    catalog.skip_thin_ids(20)
    assert ready(catalog, "other") == 41


def test_ids_end_some_day(catalog: Catalog) -> None:
    catalog.skip_thin_ids(MAX_THIN_ID)
    with pytest.raises(Unhealthy, match="used up"):
        catalog.add_template(template("late"))
    assert catalog.templates() == ()


def test_versions_are_made_one_after_the_other(catalog: Catalog) -> None:
    catalog.add_template(template("debian"))
    with pytest.raises(AlreadyExists, match="being imported"):
        catalog.add_template(template("debian"))


def test_a_version_is_never_given_twice_unless_it_never_was_ready(catalog: Catalog) -> None:
    failed = catalog.add_template(template("debian"))
    catalog.remove_template(failed.thin_id, "failed", 1.0)
    first, second = ready(catalog), ready(catalog)
    assert [t.ref for t in catalog.versions("debian")] == ["debian@2", "debian@1"]
    catalog.remove_template(second, "gone", 1.0)
    assert catalog.template(TemplateRef("debian")).thin_id == first
    assert catalog.add_template(template("debian")).version == 3
    assert catalog.add_template(template("other")).version == 1


def test_a_bare_name_is_the_newest_ready_version(catalog: Catalog) -> None:
    first, second = ready(catalog), ready(catalog)
    catalog.add_template(template("debian"))
    assert catalog.template(TemplateRef("debian")).thin_id == second
    assert catalog.template(TemplateRef("debian", 3)).state is TemplateState.IMPORTING
    (clone,) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0)])
    assert (clone.template, clone.template_ref) == (second, "debian@2")
    assert not catalog.retire_template(second, 2.0)
    assert catalog.template(TemplateRef("debian")).thin_id == first
    with pytest.raises(NotReady, match="debian@2 cannot be cloned"):
        catalog.add_clones(TemplateRef("debian", 2), [NewClone("b", None, 1.0)])


def test_a_retired_template_goes_with_its_last_clone(catalog: Catalog) -> None:
    first, second = ready(catalog), ready(catalog)
    one, two = catalog.add_clones(TemplateRef("debian", 1), [NewClone("a", None, 1.0), NewClone("b", None, 1.0)])
    other = NewClone("c", None, 1.0, CloneKind.EPHEMERAL)
    (three,) = catalog.add_clones(TemplateRef("debian", 1), [other])
    assert not catalog.retire_template(first, 2.0)
    assert not catalog.remove_clones([one, two], "was removed", 3.0)
    assert catalog.template(TemplateRef("debian", 1)).retired
    assert catalog.remove_clones([three], "was removed", 4.0) == (first,)
    assert catalog.find_template(TemplateRef("debian", 1)) is None
    assert [(g.thin_id, g.pool, g.why) for g in catalog.garbage()] == [
        (one.thin_id, PoolName.DURABLE, "clone a was removed"),
        (two.thin_id, PoolName.DURABLE, "clone b was removed"),
        (first, PoolName.DURABLE, "template debian@1 was removed with its last clone"),
        (three.thin_id, PoolName.FAST, "clone c was removed"),
    ]
    assert catalog.retire_template(second, 5.0), "nothing depends on it"
    assert catalog.templates() == ()


def test_clones_are_added_all_or_none(catalog: Catalog) -> None:
    ready(catalog)
    ref = TemplateRef("debian")
    catalog.add_clones(ref, [NewClone("a", None, 1.0)])
    with pytest.raises(AlreadyExists, match="clone a"):
        catalog.add_clones(ref, [NewClone("b", None, 1.0), NewClone("a", None, 1.0)])
    with pytest.raises(NotFound, match="client hv1"):
        catalog.add_clones(ref, [NewClone("b", None, 1.0), NewClone("c", "hv1", 1.0)])
    assert [clone.name for clone in catalog.clones()] == ["a"]


def test_only_ready_templates_are_cloned(catalog: Catalog) -> None:
    catalog.add_template(template("debian"))
    with pytest.raises(NotReady, match="importing"):
        catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0)])


def test_open_intents_are_what_was_not_finished(catalog: Catalog) -> None:
    done = ready(catalog)
    (clone, other) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0), NewClone("b", None, 1.0)])
    importing = catalog.add_template(template("fedora"))
    staging = catalog.add_staging(importing.thin_id)
    catalog.finish_clones([clone.thin_id], 7)
    found = catalog.open_intents()
    assert [t.thin_id for t in found.templates] == [importing.thin_id]
    assert [c.thin_id for c in found.clones] == [other.thin_id]
    assert found.stagings == (staging,)
    assert catalog.transaction_id() == 7
    assert catalog.thin_ids() == {done, clone.thin_id, other.thin_id, importing.thin_id, staging.thin_id}
    assert catalog.roll_back(2.0) == found
    assert not catalog.open_intents()
    assert {g.thin_id: g.why for g in catalog.garbage()} == {
        other.thin_id: "clone b was not finished",
        staging.thin_id: "the import of fedora@1 was not finished",
        importing.thin_id: "the import of fedora@1 was not finished",
    }
    assert catalog.thin_ids() == {done, clone.thin_id, other.thin_id, importing.thin_id, staging.thin_id}
    catalog.drop_garbage([other.thin_id, staging.thin_id, importing.thin_id], PoolName.DURABLE, 8)
    assert catalog.garbage() == ()
    assert catalog.thin_ids() == {done, clone.thin_id}
    assert catalog.transaction_id() == 8


def test_pools_are_agreed_with_one_by_one(catalog: Catalog) -> None:
    ready(catalog)
    (clone,) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0, CloneKind.EPHEMERAL)])
    assert clone.pool is PoolName.FAST
    catalog.finish_clones([clone.thin_id], 5, clone.pool)
    assert catalog.transaction_id(PoolName.DURABLE) is None
    assert catalog.transaction_id(PoolName.FAST) == 5
    catalog.adopt_pool(PoolName.FAST, 1, "another drive")
    assert catalog.pool(PoolName.FAST) == PoolRow(PoolName.FAST, 1, "another drive")


def test_a_clone_s_volume_is_replaced_in_one_step(catalog: Catalog) -> None:
    ready(catalog)
    (old,) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", None, 1.0)])
    catalog.finish_clones([old.thin_id], 1)
    fresh = catalog.add_garbage(PoolName.DURABLE, "the reset of clone a was not finished", 2.0)
    new = catalog.replace_volume(old, replace(old, thin_id=fresh, size=8192), "was reset", 3.0, 2)
    assert (new.thin_id, new.size, new.name, new.template) == (fresh, 8192, "a", old.template)
    assert [(g.thin_id, g.why) for g in catalog.garbage()] == [(old.thin_id, "clone a was reset")]
    assert catalog.transaction_id() == 2


def test_limits_stay_with_a_clone_and_not_with_its_volume(catalog: Catalog) -> None:
    ready(catalog)
    both = Limits(iops=500, bandwidth=100 * MIB)
    wanted = [NewClone("a", None, 1.0, limits=both), NewClone("b", None, 1.0)]
    limited, free = catalog.add_clones(TemplateRef("debian"), wanted)
    assert (limited.limits, free.limits) == (both, Limits())
    catalog.finish_clones([limited.thin_id, free.thin_id], 1)
    fresh = catalog.add_garbage(PoolName.DURABLE, "the reset of clone a was not finished", 2.0)
    assert catalog.replace_volume(limited, replace(limited, thin_id=fresh), "was reset", 3.0, 2).limits == both
    catalog.set_clone_limits(free.thin_id, Limits(iops=10))
    catalog.set_clone_limits(fresh, Limits())
    assert [clone.limits for clone in catalog.clones()] == [Limits(), Limits(iops=10)]


def test_leases_end(catalog: Catalog) -> None:
    ready(catalog)
    wanted = [NewClone(name, None, 1.0, expires=end) for name, end in (("a", 20.0), ("b", 10.0), ("c", None))]
    clones = catalog.add_clones(TemplateRef("debian"), wanted)
    assert catalog.expired_clones(30.0) == (), "they are not made yet"
    catalog.finish_clones([clone.thin_id for clone in clones], 1)
    assert [clone.name for clone in catalog.expired_clones(9.0)] == []
    assert [clone.name for clone in catalog.expired_clones(20.0)] == ["b", "a"]
    catalog.set_clone_expiry(clones[1].thin_id, None)
    assert [clone.name for clone in catalog.expired_clones(20.0)] == ["a"]


def test_questions_about_one_thing_do_not_read_all_clones(catalog: Catalog) -> None:
    for query in (
        f"{CLONE_QUERY} WHERE c.name = 'a'",
        (
            f"{CLONE_QUERY} WHERE c.client = 'a' AND c.state = 'ready' UNION ALL"
            f" {CLONE_QUERY} WHERE c.shared = 'a' AND c.state = 'ready' ORDER BY 2"
        ),
        f"{CLONE_QUERY} WHERE c.shared IS NOT NULL AND c.shared_until <= 1.0 AND c.state = 'ready' ORDER BY c.name",
        f"{CLONE_QUERY} WHERE c.state <> 'ready'",
        f"{CLONE_QUERY} WHERE c.expires IS NOT NULL AND c.expires <= 1.0 AND c.state = 'ready' ORDER BY c.expires",
        "SELECT count(*) FROM clones WHERE template = 1",
        "SELECT name FROM clones WHERE template = 1 ORDER BY thin_id LIMIT 5",
        "SELECT name FROM clones WHERE client = 'a' OR shared = 'a' ORDER BY name",
        "DELETE FROM clones WHERE thin_id = 1",
    ):
        plan = [str(row[3]) for row in catalog._db.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert not [line for line in plan if line in ("SCAN c", "SCAN clones")], (query, plan)


def test_a_template_with_clones_stays_and_says_whose(catalog: Catalog) -> None:
    thin_id = ready(catalog)
    catalog.add_clones(TemplateRef("debian"), [NewClone(f"web-{n}", None, 1.0) for n in range(7)])
    with pytest.raises(InUse, match=r"7 clone\(s\) depend on it: web-0, web-1.* and 2 more"):
        catalog.remove_template(thin_id, "gone", 1.0)
    assert catalog.template(TemplateRef("debian")).state is TemplateState.READY
    assert catalog.clone_counts() == {thin_id: 7}
    assert catalog.count_clones_of(thin_id) == 7


def test_a_removal_detaches(catalog: Catalog) -> None:
    ready(catalog)
    catalog.put_client(Client("local", "unix"))
    (clone,) = catalog.add_clones(TemplateRef("debian"), [NewClone("a", "local", 1.0)])
    catalog.finish_clones([clone.thin_id], 1)
    assert [c.name for c in catalog.clones_of_client("local")] == ["a"]
    with pytest.raises(InUse, match="a"):
        catalog.drop_client("local")
    catalog.remove_clones([clone], "was removed", 1.0)
    assert catalog.clones_of_client("local") == ()
    assert catalog.find_clone("a") is None
    catalog.drop_client("local")


def test_clients_are_replaced_by_name(catalog: Catalog) -> None:
    catalog.put_client(Client("hv1", "unix"))
    other = Client("hv1", "tcp", "10.0.0.1", 10809, plain=True, max_connections=5)
    catalog.put_client(other)
    assert catalog.clients() == (other,)


# --- boot sets


def test_a_boot_set_goes_with_its_template_and_so_do_its_boots(catalog: Catalog) -> None:
    thin_id = ready(catalog)
    assert catalog.boot_set(thin_id) is None
    for number in range(3):
        catalog.put_boot_set(StoredBootSet(thin_id, f"set {number}", number == 0, 1.0 * number))
    assert catalog.boot_sets() == (StoredBootSet(thin_id, "set 2", False, 2.0),)
    for number in range(RUNS_KEPT + 2):
        catalog.add_boot_run(BootRun(thin_id, f"clone-{number}", 1.0, "0 512\n"))
    assert [run.clone for run in catalog.boot_runs(thin_id)] == [f"clone-{n}" for n in range(2, RUNS_KEPT + 2)]
    for used in range(CHECKS_KEPT + 2):
        catalog.add_boot_check(catalog.boot_sets()[0], 7.0, used)
    catalog.add_boot_check(StoredBootSet(thin_id, "set 1", False, 1.0), 8.0, 100)
    assert catalog.boot_checks(thin_id) == tuple(range(2, CHECKS_KEPT + 2)), "nothing of one that was replaced"
    assert catalog.boot_set_judged(thin_id) == 7.0
    catalog.remove_template(thin_id, "removed", 0.0)
    assert catalog.boot_sets() == ()
    assert catalog.boot_runs(thin_id) == ()
    assert catalog.boot_checks(thin_id) == ()


def test_a_boot_set_is_removed_with_its_boots_and_the_template_stays(catalog: Catalog) -> None:
    thin_id = ready(catalog)
    catalog.put_boot_set(StoredBootSet(thin_id, "set", True, 0.0))
    catalog.add_boot_run(BootRun(thin_id, "a", 1.0, "0 512\n"))
    assert catalog.remove_boot_set(thin_id)
    assert not catalog.remove_boot_set(thin_id)
    assert catalog.boot_runs(thin_id) == ()
    assert catalog.find_template(TemplateRef("debian", None)) is not None


def test_a_template_that_is_fetched_is_cloned_meanwhile(catalog: Catalog) -> None:
    made = catalog.add_template(template("debian"))
    begun = Fetch(made.thin_id, "nbds://192.0.2.1:10809/debian@1", 0, Identity("ca", "mine", "secret"))
    assert "secret" not in repr(begun)
    catalog.begin_fetch(begun, 8192, StoredBootSet(made.thin_id, "text", True, 1.0))
    assert catalog.template(TemplateRef("debian")).state is TemplateState.FETCHING
    assert catalog.fetches() == (begun,)
    catalog.record_fetched(made.thin_id, 4096)
    assert catalog.fetch(made.thin_id) == replace(begun, fetched=4096)
    durable, fast = catalog.add_clones(
        TemplateRef("debian"), [NewClone("a", None, 1.0), NewClone("b", None, 1.0, CloneKind.EPHEMERAL)]
    )
    assert (durable.overlay, fast.overlay) == (True, False)
    # A start does not give it up.
    assert catalog.open_intents().templates == ()
    catalog.finish_template(made.thin_id, 8192, "0" * 64)
    assert catalog.fetches() == ()
    assert catalog.template(TemplateRef("debian")).state is TemplateState.READY
    (later,) = catalog.add_clones(TemplateRef("debian"), [NewClone("c", None, 1.0)])
    assert (catalog.clone("a").overlay, later.overlay) == (True, False)


def test_a_fetch_goes_with_its_template(catalog: Catalog) -> None:
    made = catalog.add_template(template("debian"))
    catalog.begin_fetch(Fetch(made.thin_id, "nbd://192.0.2.1:10809/x"), 8192, None)
    catalog.remove_template(made.thin_id, "template debian@1 was removed", 2.0)
    assert (catalog.fetches(), catalog.fetch(made.thin_id)) == ((), None)


def test_an_offered_template_stays_and_a_retired_one_goes_with_its_last_offer(catalog: Catalog) -> None:
    thin_id = ready(catalog)
    catalog.put_client(Client("box2", "unix"))
    first = catalog.add_offer(thin_id, "box2", None)
    second = catalog.add_offer(thin_id, "box2", "a boot set")
    assert second.number > first.number
    assert catalog.offers_to("box2") == (second,)
    assert (second.ref, catalog.offered_to(thin_id)) == ("debian@1", ("box2",))
    # Changing a client keeps what it is offered.
    catalog.put_client(Client("box2", "unix", max_connections=5))
    with pytest.raises(InUse, match="the template is in use"):
        catalog.remove_template(thin_id, "it was removed", 2.0)
    assert not catalog.retire_template(thin_id, 2.0)
    assert catalog.remove_offer(second, 3.0) == (thin_id,)
    assert catalog.templates() == ()
