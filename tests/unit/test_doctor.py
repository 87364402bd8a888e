"""The doctor: what is looked at, what is found, and how the command tells it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from appliance import schema
from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.cli.main import main
from appliance.config import BackendConfig, Config, NvmeConfig, RaidLevel
from appliance.errors import CannotTell, CommandFailed
from appliance.host import block, md, partitions
from appliance.host.block import Device
from appliance.host.dm import DeviceNumber
from appliance.host.dm_ioctl import Entry
from appliance.host.partitions import Partition, Table
from appliance.images import sandbox
from appliance.model import GIB, KIB, MIB, Access, Extent, Health, ImageFormat, Problem
from appliance.reconcile.volumes import Devices
from appliance.run import Runner
from appliance.schema import CheckView
from appliance.service.doctor import RULES, UNSEEN
from appliance.store import examine, names
from appliance.store.machine import Machine
from tests.lint.files import ROOT
from tests.unit.api_server import serving
from tests.unit.service_harness import IMAGE, Box, box

BOOT_SET = file.BootSetFile("debian@1", None, BootSet((Extent(0, 64 * KIB),), len(IMAGE), 3))
OURS = (names.PART_META, names.PART_CACHE, names.PART_FAST)
TABLES = {
    "nvme0": Table("g", MIB, GIB, tuple(Partition(name, MIB, MIB) for name in OURS)),
    "nvme1": Table("g", MIB, GIB, (Partition("data", MIB, MIB),)),
}


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


def template_of(appliance: Box) -> int:
    return appliance.service.core.catalog.templates()[0].thin_id


def test_a_template_that_can_be_written_is_found(appliance: Box) -> None:
    whole(appliance)
    thin_id = template_of(appliance)
    appliance.pool.active[thin_id] = Access.READ_WRITE
    appliance.pool.kinds[thin_id] = Devices.IMPORT
    found = looked(appliance)
    assert (found[11].state, "debian@1" in found[11].problems[0].what) == ("failed", True)
    assert found[2].state == "ok", "nobody reads it ahead of boots"
    appliance.service.boot_sets.put("debian", file.dump(BOOT_SET))
    assert (looked(appliance)[2].state, looked(appliance)[11].state) == ("failed", "failed")
    appliance.service.reconcile()
    assert {rule for rule, check in looked(appliance).items() if check.state != "ok"} == set()


def test_a_template_that_is_imported_at_this_moment_may_be_written(appliance: Box) -> None:
    whole(appliance)
    request = schema.TemplateCreate(name="new", format=ImageFormat.RAW, source=schema.UploadSource(), size=MIB)
    appliance.service.imports.begin(request)
    found = looked(appliance)
    assert (found[2].state, found[11].state) == ("ok", "ok")


def test_a_boot_set_that_is_not_in_the_cache_is_found(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(appliance)
    thin_id = template_of(appliance)
    for state, expected in (("warm", "ok"), ("stopped", "ok"), ("incomplete", "degraded"), ("failed", "degraded")):
        found = {"state": state, "why": "", "total_bytes": 1, "passes": 1, "began": 0}
        view = schema.PrefetchView.model_validate(found)
        monkeypatch.setitem(appliance.service.prefetching._views, thin_id, view)
        assert looked(appliance)[14].state == expected, state
    whole_has_no_room = view.model_copy(update={"state": "incomplete", "passes": 0})
    monkeypatch.setitem(appliance.service.prefetching._views, thin_id, whole_has_no_room)
    assert looked(appliance)[14].state == "ok", "it has no boot set"


def test_a_conversion_that_is_not_confined_is_found(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(appliance)
    appliance.converter.open = ("hatchery-import@7.service is not confined: PrivateNetwork=no",)
    [wrong] = looked(appliance)[16].problems
    assert (wrong.severity, wrong.rule, "import@7" in wrong.what) == (Health.FAILED, 16, True)

    def silent() -> NoReturn:
        raise CommandFailed("systemctl show", 1, "no bus")

    monkeypatch.setattr(appliance.converter, "breaches", silent)
    assert looked(appliance)[16].state == "unknown"


PROPERTIES = {
    "Id": "hatchery-import@7.service",
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "PrivateUsers": "yes",
    "ProtectSystem": "strict",
    "CapabilityBoundingSet": "",
    "PrivateNetwork": "yes",
}


def told(**changed: str) -> str:
    return "".join(f"{name}={value}\n" for name, value in {**PROPERTIES, **changed}.items())


def test_what_systemd_says_of_units_is_held_against_what_they_are_made_with() -> None:
    assert sandbox.parse_breaches("") == ()
    fetching = told(Id="hatchery-fetch@1.service", PrivateNetwork="no")
    assert sandbox.parse_breaches("\n".join((told(), fetching))) == ()
    for name in set(PROPERTIES) - {"Id"}:
        [found] = sandbox.parse_breaches("\n".join((fetching, told(**{name: "other"}))))
        assert found == f"hatchery-import@7.service is not confined: {name}=other"
    for name, value in PROPERTIES.items():
        assert name == "Id" or f"{name}={value}" in (*sandbox.CONFINED, "PrivateNetwork=yes"), "it is made so"


def test_a_drive_that_is_no_part_of_the_store_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fifth = Device("sde", "8:64", GIB, 512, None, 0)
    members = {"sda": "hatchery:backend", "sdb": "nas:data", "sdc": None}

    def superblock(device: Device) -> object:
        if device.name == "sde":
            raise CannotTell("it cannot be read")
        name = members[device.name]
        return None if name is None else SimpleNamespace(name=name)

    monkeypatch.setattr(block, "find", lambda path: {"sdd": None, "sde": fifth}.get(path, replace(fifth, name=path)))
    monkeypatch.setattr(md, "superblock", superblock)
    monkeypatch.setattr(partitions, "remembered", lambda device: TABLES[device.name])
    backend = BackendConfig(RaidLevel.RAID5, ("sda", "sdb", "sdc", "sdd", "sde"))
    settings = Config(NvmeConfig(("nvme0", "nvme1")), backend)
    found = examine._strangers(Machine(settings, Runner()))
    assert [problem.what.split()[0] for problem in found] == ["sdb", "sdc", "nvme1"]
    assert {(problem.rule, problem.severity) for problem in found} == {(8, Health.DEGRADED)}


def test_every_rule_is_looked_at_and_what_cannot_be_seen_has_its_tests() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rules = text.split("## Rules of the data path", 1)[1].split("\n## ", 1)[0]
    documented = {int(number) for number in re.findall(r"^(\d+)\. ", rules, re.MULTILINE)}
    assert {rule for rule in RULES if rule is not None} == documented
    for words in UNSEEN.values():
        named = re.findall(r"tests/\w+/\w+\.py", words)
        assert named
        assert all((ROOT / name).is_file() for name in named), words


def test_the_command_says_what_is_wrong_and_what_to_do(appliance: Box, capsys: pytest.CaptureFixture[str]) -> None:
    whole(appliance)
    with serving(appliance):
        words = ["--socket", str(appliance.paths.api_socket), "doctor"]
        assert main(words) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "all is well" in said
        assert "rule 2: that a prefetch refuses what can be written" in said
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
