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

from appliance.run import Runner
from appliance.web import metrics
from tests.lint.files import ROOT
from tests.lint.told import HOURS, broken, healthy, series
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


def told() -> dict[str, set[str]]:
    """The labels of each series that a scrape has."""
    found: dict[str, set[str]] = {}
    for family in metrics.families(healthy(1)):
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


SCRAPE = {"job": "hatchery", "instance": "box"}


def evaluate(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Have Prometheus' own engine go through some hours of an appliance's metrics, with the alerts."""
    file = folder / "told.test.yml"
    # ``for`` times are from one minute on.
    asked = {"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": tests}
    file.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
    promtool("test", "rules", file)


def case(name: str, scraped: dict[str, str], *expected: tuple[str, int | None]) -> dict[str, Any]:
    """At the end of the hours, each expression is one number, or has no answer."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in scraped.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": f"{HOURS}h",
                "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
            }
            for expression, value in expected
        ],
    }


def test_every_query_of_the_dashboard_has_an_answer(tmp_path: Path) -> None:
    answers = [(f"count({query}) > bool 0", 1) for query in queries().values()]
    assert answers
    evaluate(tmp_path, [case("dashboard", series(healthy, SCRAPE), *answers)])


def test_an_answer_that_is_missing_is_seen(tmp_path: Path) -> None:
    wrong = case("wrong", series(healthy, SCRAPE), ('count(hatchery_clones{state="lost"}) > bool 0', 1))
    with pytest.raises(AssertionError, match="exp:"):
        evaluate(tmp_path, [wrong])


def test_no_alert_fires_on_a_healthy_appliance_and_each_on_what_it_is_for(tmp_path: Path) -> None:
    alerts = {rule["alert"] for rule in rules()}
    sick = broken()
    assert {"HatcheryUnreachable", *sick} == alerts
    firing = 'count(ALERTS{{alertname="{}", alertstate="firing"}}) > bool 0'
    well = series(healthy, SCRAPE)
    tests = [case("healthy", well, ("ALERTS", None))]
    tests += [case(alert, series(told_of, SCRAPE), (firing.format(alert), 1)) for alert, told_of in sick.items()]
    silent = {'up{job="hatchery", instance="box"}': f"0x{60 * HOURS}"}
    tests += [case("unreachable", silent, (firing.format("HatcheryUnreachable"), 1))]
    evaluate(tmp_path, tests)


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


def test_every_metric_is_listed() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    parts = re.compile(r"_(bucket|sum|count)$")
    assert {name if name in listed else parts.sub("", name) for name in told()} == listed


def test_a_wrong_query_is_seen() -> None:
    series = told()
    assert unknown("hatchery_pool_data_used_bytes / hatchery_pool_size", series) == {"hatchery_pool_size"}
    assert unknown('hatchery_health{colour="red"}', series) == {"colour"}
    assert unknown("sum by (colour) (hatchery_clones)", series) == {"colour"}
    assert unknown('sum by (le) (rate(hatchery_disk_latency_seconds_bucket{disk="sda"}[5m]))', series) == set()
