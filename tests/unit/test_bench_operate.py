"""The rows of the bench of looking at an appliance."""

from bench import operate
from bench.report import Report


def figures(factor: float, wait: float) -> dict[str, list[float]]:
    kinds = {"status_command": 1.0, "status": 0.1, "page": 0.2, "scrape": 0.3}
    found = {kind: [seconds * factor, seconds * factor] for kind, seconds in kinds.items()}
    return {**found, "idle_wait": [0.01, 0.01, 0.01], "scrape_wait": [wait, 0.9, wait], "rss": [9e7]}


def test_what_is_held_to_is_said_and_kept_or_missed() -> None:
    rows = {row.name: row for row in operate.rows({"10": figures(1, 0.02), "1000": figures(1.9, 0.055)})}
    assert rows["status_command_1000_over_10"].value == 1.9
    assert round(rows["scrape_pause_1000_ms"].value) == 45
    assert all(row.ok for row in rows.values())
    rows = {row.name: row for row in operate.rows({"10": figures(1, 0.02), "1000": figures(4, 0.07)})}
    missed = {name for name, row in rows.items() if not row.ok}
    assert missed == {
        "status_command_1000_over_10",
        "status_1000_over_10",
        "page_1000_over_10",
        "scrape_1000_s",
        "scrape_pause_1000_ms",
    }
    assert "scrape_1000_s" in Report("operate", {}, tuple(rows.values())).page()
