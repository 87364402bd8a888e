"""The doctor: what is looked at, what is found, and how the command tells it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import schema
from appliance.cli.main import main
from appliance.host.dm import DeviceNumber
from appliance.host.dm_ioctl import Entry
from appliance.model import GIB, Health, Problem
from appliance.schema import CheckView
from appliance.service.doctor import RULES
from appliance.store import examine
from tests.lint.files import ROOT
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        made.add_template("debian")
        made.service.create_clones(schema.CloneCreate(name="web", template="debian"))
        yield made


def looked(appliance: Box) -> dict[int | None, CheckView]:
    return {check.rule: check for check in appliance.service.examine().checks}


def whole(appliance: Box) -> None:
    """The model's store has no parts to look at: give it some."""
    array = schema.ArrayView(
        health=Health.OK, name="backend", level="raid5", state="clean", size=1, sync_action="idle", sync_percent=None,
        members=(),
    )  # fmt: skip
    cache = schema.CacheView(
        health=Health.OK, attached=True, mode="writethrough", size=1, settings_ok=True, bypassed_bytes=0,
        available_percent=99,
    )  # fmt: skip
    pool = schema.PoolView(
        health=Health.OK, name="durable", mode="rw", data_used=1, data_total=9, metadata_used=1, metadata_total=9,
        block_bytes=65536, transaction_id=1,
    )  # fmt: skip
    view = schema.StoreView(backend=array, meta=array, cache=cache, pool=pool)
    # The model's, for this test alone.
    appliance.store.look = lambda: (view, appliance.store.problems)  # type: ignore[method-assign]


def test_a_healthy_appliance_passes_every_check(appliance: Box) -> None:
    whole(appliance)
    found = looked(appliance)
    assert list(found) == list(RULES)
    assert {check.state for check in found.values()} == {"ok"}


def test_what_could_not_be_looked_at_is_unknown_and_not_well(appliance: Box) -> None:
    found = looked(appliance)
    assert {rule for rule, check in found.items() if check.state == "unknown"} == {1, 3, 4, 10, 13}
    whole(appliance)
    appliance.store.examined[7] = None
    assert [rule for rule, check in looked(appliance).items() if check.state != "ok"] == [7]


def test_a_problem_stands_under_its_rule(appliance: Box) -> None:
    whole(appliance)
    appliance.store.problems = (
        Problem(Health.DEGRADED, "4096 bytes went past the cache", "find out", 1),
        Problem(Health.FAILED, "the cache's settings are wrong", "run up", 1),
        Problem(Health.DEGRADED, "a disk is missing", "replace it"),
    )
    appliance.store.examined[12] = (Problem(Health.FAILED, "the kernel is too old", "boot a newer one", 12),)
    found = looked(appliance)
    assert {rule: check.state for rule, check in found.items() if check.state != "ok"} == {
        1: "failed",
        12: "failed",
        None: "degraded",
    }
    assert [problem.what for problem in found[None].problems] == ["a disk is missing"]


def test_exports_are_held_against_the_catalog(appliance: Box) -> None:
    whole(appliance)
    daemon = appliance.units.daemons["local"]
    [(node, name)] = daemon.exports.items()
    daemon.exports["clone-99"] = "stranger"
    [wrong] = looked(appliance)[6].problems
    assert (wrong.severity, "clone-99" in wrong.what) == (Health.FAILED, True)
    del daemon.exports["clone-99"], daemon.exports[node]
    [missing] = looked(appliance)[6].problems
    assert (missing.severity, name in missing.what) == (Health.DEGRADED, True)
    appliance.service.reconcile()
    assert looked(appliance)[6].state == "ok"


def test_catalog_and_pool_are_held_against_each_other(appliance: Box) -> None:
    whole(appliance)
    appliance.pool.create_thin(77)
    assert "volume 77" in looked(appliance)[9].problems[0].what
    appliance.pool.delete(77)
    [clone] = [thin_id for thin_id, volume in appliance.pool.volumes.items() if volume.snapshot_of is not None]
    appliance.pool.deactivate(clone)
    assert looked(appliance)[9].problems[0].what.startswith("still to be done")


def test_a_large_volume_that_waits_for_the_collector_is_no_problem(appliance: Box) -> None:
    whole(appliance)
    [clone] = [thin_id for thin_id, volume in appliance.pool.volumes.items() if volume.snapshot_of is not None]
    appliance.pool.sizes[clone] = GIB
    assert appliance.service.clones.remove("web", force=False)
    assert clone in appliance.pool.volumes
    assert looked(appliance)[9].state == "ok"


def test_a_storage_daemon_that_is_down_is_told_once(appliance: Box) -> None:
    whole(appliance)
    appliance.units.kill("local")
    found = looked(appliance)
    assert (found[6].state, found[None].state) == ("ok", "failed")


def test_every_rule_that_is_looked_at_is_one_of_the_documented() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rules = text.split("## Rules of the data path", 1)[1].split("\n## ", 1)[0]
    assert all(f"\n{rule}. " in rules for rule in RULES if rule is not None)


def test_the_command_says_what_is_wrong_and_what_to_do(appliance: Box, capsys: pytest.CaptureFixture[str]) -> None:
    whole(appliance)
    with serving(appliance):
        words = ["--socket", str(appliance.paths.api_socket), "doctor"]
        assert main(words) == 0
        assert "all is well" in capsys.readouterr().out
        appliance.store.problems = (Problem(Health.FAILED, "new blocks are not zeroed", "stop and start the store", 3),)
        assert main(words) == 10
        said = capsys.readouterr().out
        assert "rule 3: new blocks are zeroed" in said
        assert "failed: new blocks are not zeroed" in said
        assert "do: stop and start the store" in said
        assert main([*words, "--json"]) == 10
        checks = json.loads(capsys.readouterr().out)["checks"]
        assert [check["rule"] for check in checks if check["state"] != "ok"] == [3]


def test_udevs_traces_of_a_look_into_a_clone_are_seen(tmp_path: Path) -> None:
    devices = (
        Entry("hatchery-clone-1", "", DeviceNumber(254, 1)),
        Entry("hatchery-thin-1", "", DeviceNumber(254, 2)),
        Entry("hatchery-pool-durable", "", DeviceNumber(254, 3)),
    )
    assert examine._probed(devices, tmp_path) == ()
    (tmp_path / "b254:1").write_text("I:12\nE:DM_UDEV_RULES_VSN=3\nE:DM_NAME=hatchery-clone-1\n")
    (tmp_path / "b254:3").write_text("E:ID_FS_TYPE=ext4\n")
    assert examine._probed(devices, tmp_path) == ()
    (tmp_path / "b254:2").write_text("I:12\nE:ID_FS_TYPE=ext4\n")
    [found] = examine._probed(devices, tmp_path)
    assert "hatchery-thin-1" in found.what
    assert found.hint


def test_an_old_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.host.kernel.MINIMUM", (99, 0, 0))
    [found] = examine._kernel()
    assert (found.rule, found.severity) == (12, Health.FAILED)
    monkeypatch.setattr("appliance.host.kernel.MINIMUM", (1, 0, 0))
    assert examine._kernel() == ()
