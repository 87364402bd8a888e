"""Alert rules and dashboard: promtool reads and tests them, and what they ask for is what the appliance tells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from imagebuild.cache import cache_directory
from imagebuild.promtool import place

from appliance import schema
from appliance.model import CloneKind, CloneState, Health
from appliance.run import Runner
from appliance.web import metrics
from tests.lint.files import ROOT
from tests.tier import require

FOLDER = ROOT / "docs/monitoring"
RULES = FOLDER / "hatchery.rules.yml"
TESTS = ROOT / "tests/data/promtool/hatchery.rules.test.yml"
DASHBOARD = FOLDER / "hatchery.dashboard.json"
NAME = re.compile(r"\bhatchery(?:_[a-z0-9]+)*\b(?!\"|`)")
LABEL = re.compile(r"(?:by|without|on|ignoring) *\(([^)]*)\)|(?<=[{,]) *([a-z_]+) *(?:=|!)")


def promtool(*words: str | Path) -> None:
    program = place(cache_directory())
    require(program.exists(), "promtool is missing: script/bootstrap fetches it")
    done = Runner().run([program, *words], check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def device(name: str) -> schema.DeviceCounters:
    return schema.DeviceCounters(name=name, reads=1, read_bytes=1, writes=1, write_bytes=1, discards=1)


def answers() -> metrics.Answers:
    """An appliance that has one of everything."""
    array = schema.ArrayView(
        health=Health.OK, name="backend", level="raid5", state="clean", size=1, sync_action="check", sync_percent=1,
        members=(schema.MemberView(device="sda", state="in-sync"),),
    )  # fmt: skip
    cache = schema.CacheView(
        health=Health.OK, attached=True, mode="writethrough", size=1, settings_ok=True, bypassed_bytes=0,
        available_percent=99,
    )  # fmt: skip
    pool = schema.PoolView(
        health=Health.OK, name="durable", mode="rw", data_used=1, data_total=2, metadata_used=1, metadata_total=2,
        block_bytes=65536, transaction_id=1,
    )  # fmt: skip
    store = schema.StoreView(backend=array, meta=array, cache=cache, pool=pool, last_backup=1.0)
    client = schema.ClientView(
        name="local", transport="unix", address=None, port=None, plain=False, state=Health.OK, detail="", uri="",
        clones=(), connections=(),
    )  # fmt: skip
    disk = schema.DiskHistogram(role="backend", disk="sda", histogram=schema.HistogramView(counts=(1,)))
    status = schema.Status(
        version="1", kernel="6", health=Health.OK, problems=(), store=store, disks=(disk,), clients=(client,),
        templates=1, clones=1,
    )  # fmt: skip
    boot_set = schema.BootSetSummary(total_bytes=2, extents=1, runs=1, guessed=False, changed=1, wasted_bytes=1)
    prefetch = schema.PrefetchView(state="warm", why="", total_bytes=1, began=1)
    template = schema.TemplateView.model_construct(
        ref="debian@1", size=1, mapped_bytes=1, clones=1, boot_set=boot_set, prefetch=prefetch
    )
    clone = schema.CloneView.model_construct(
        name="web", template="debian@1", kind=CloneKind.DURABLE, state=CloneState.READY, client="local", mapped_bytes=1
    )
    stats = schema.CacheCounters(hits=1, misses=1, bypass_hits=0, bypass_misses=0, bypassed_bytes=0)
    counters = schema.Counters(
        taken=1, cache=device("nvme0n1p2"), cached=device("bcache0"), backend=device("md127"), meta=device("md126"),
        disks=(device("sda"),), cache_stats=stats, clones={"web": device("dm-1")},
    )  # fmt: skip
    times = schema.BootTimes(
        phase="cold", boots=1, seconds_least=1, seconds_median=1, seconds_most=1, io_seconds=1, read_bytes=1,
        backend_bytes=1, hit_ratio=1,
    )  # fmt: skip
    measured = schema.MeasurementView(template="debian@1", taken=1, on="hv1", phases=(times,))
    return metrics.Answers(status, counters, (template,), (clone,), measurements=(measured,))


def told() -> dict[str, set[str]]:
    """The labels of each series that a scrape has."""
    found: dict[str, set[str]] = {}
    for family in metrics.families(answers()):
        for sample in family.samples:
            # What the scrape itself adds.
            found.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels() -> Iterator[dict[str, Any]]:
    for panel in dashboard()["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries() -> dict[str, str]:
    """The dashboard's queries as Prometheus gets them, by the panel that asks and the query's letter."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel.get("targets", ())
    }
    for name, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$instance", "box"), ("$job", "hatchery")):
        found = {panel: query.replace(name, value) for panel, query in found.items()}
    return found


def unknown(query: str, series: dict[str, set[str]]) -> set[str]:
    """Series and labels that a query asks for and that no appliance has."""
    names = set(NAME.findall(query))
    labels = {label.strip() for pair in LABEL.findall(query) for label in ",".join(pair).split(",") if label.strip()}
    known = {"le", "job", "instance"}.union(*(series.get(name, set()) for name in names))
    return {name for name in names - known if name not in series} | (labels - known)


def test_the_rules_are_right() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_every_alert_comes_when_it_should_and_not_before() -> None:
    promtool("test", "rules", TESTS)


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    alerts = {rule["alert"] for rule in rules()}
    assert fires == alerts
    assert silent == alerts


def test_every_alert_says_what_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_every_alert_is_described() -> None:
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(Hatchery\w+)`", page, re.MULTILINE)) == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_there_is(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"], told()) == set()


@pytest.mark.parametrize("panel", queries())
def test_the_dashboard_asks_for_what_there_is(panel: str) -> None:
    assert unknown(queries()[panel], told()) == set()


def test_every_query_of_the_dashboard_can_be_read(tmp_path: Path) -> None:
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries().values())]
    assert rules
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", "--lint=none", file)


def test_the_dashboard_is_one() -> None:
    found = dashboard()
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    assert found["uid"] == "hatchery"
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "$datasource", panel["title"]


def test_a_wrong_query_is_seen() -> None:
    series = told()
    assert unknown("hatchery_pool_data_used_bytes / hatchery_pool_size", series) == {"hatchery_pool_size"}
    assert unknown('hatchery_health{colour="red"}', series) == {"colour"}
    assert unknown("sum by (colour) (hatchery_clones)", series) == {"colour"}
    assert unknown('sum by (le) (rate(hatchery_disk_latency_seconds_bucket{disk="sda"}[5m]))', series) == set()
