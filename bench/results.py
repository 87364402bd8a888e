"""docs/results.md from a run of the demo."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from appliance.measure.histogram import ascii_form
from appliance.measure.result import percent
from appliance.model import MIB
from bench.steps import clock

THROTTLE = 150
"""Requests a second that each of the demo's disks lets through."""


def page(
    measured: Mapping[str, Any], steps: Sequence[tuple[str, float]], total: float, remarks: Sequence[str] = ()
) -> str:
    """The page: what it ran on, the boots, the phases side by side, histograms, and the time of each step.

    ``remarks`` are what a reader must know about this one run.
    """
    facts = measured["facts"]
    origin = (
        "Written from the measurements of one run of `script/demo` (`--update-docs` does it); the data path stands in"
        " [architecture.md](architecture.md)."
    )
    appliance = (
        f"- Appliance: {facts['appliance']}, in a virtual machine on the same host, with one NVMe drive and"
        " disks throttled to 150 requests and 150 MB a second each"
    )
    parts = [
        "# Results",
        origin,
        "\n".join(
            [
                f"- Taken: {facts['taken']}",
                f"- Host: {facts['host']}",
                f"- Guests: {facts['guests']}",
                appliance,
            ]
        ),
        "## Boots",
        _boots(measured["boots"]),
        "## The phases side by side",
        _comparison(measured["summary"]),
        *_cost(measured["cache_cost"]),
        *_slowness(measured["summary"]["cold"]),
        *remarks,
        *(f"Note: {note}." for note in measured["notes"]),
        "## Latency",
        "Requests by latency, in power-of-two microseconds.",
        *(_histogram(latency) for latency in measured["histograms"]),
        "## The demo's steps",
        table(["step", "time"], [[name, clock(took)] for name, took in [*steps, ("all", total)]], right={1}),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: set[int]) -> str:
    """A Markdown table."""
    rules = ["---:" if index in right else "---" for index in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rules, *rows])


def _boots(boots: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "clone", "cache", "seconds", "requests", "MiB", "hits, bytes", "hits, requests",
        "backend reads", "backend MiB", "amplification",
    ]  # fmt: skip
    rows = [
        [
            boot["clone"],
            boot["phase"],
            f"{boot['seconds']:.2f}",
            f"{boot['requests']:,}",
            f"{boot['read_bytes'] / MIB:.1f}",
            percent(boot["hit_rate_bytes"]),
            percent(boot["hit_rate_requests"]),
            f"{boot['backend_requests']:,}",
            f"{boot['backend_bytes'] / MIB:.1f}",
            f"{boot['amplification']:.3f}",
        ]
        for boot in boots
    ]
    return table(head, rows, right=set(range(2, len(head))))


def _comparison(summary: Mapping[str, Any]) -> str:
    phases = {name: found for name, found in summary.items() if found is not None}
    figures: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("boots", lambda s: str(s["boots"])),
        ("boot time, median", lambda s: f"{s['seconds']['median']:.2f} s"),
        ("least to most", lambda s: f"{s['seconds']['least']:.2f} to {s['seconds']['most']:.2f} s"),
        ("I/O wait, median", lambda s: f"{s['io_seconds']['median']:.2f} s" if s["io_seconds"] else "-"),
        ("the rest, median", lambda s: f"{s['rest_seconds']['median']:.2f} s" if s["rest_seconds"] else "-"),
        ("processor time of QEMU, median", lambda s: f"{s['cpu_spread']['median']:.1f} s"),
        ("its least to most", lambda s: f"{s['cpu_spread']['least']:.1f} to {s['cpu_spread']['most']:.1f} s"),
        ("requests a boot", lambda s: f"{s['requests']:,.0f}"),
        ("read a boot", lambda s: f"{s['read_bytes'] / MIB:.1f} MiB"),
        ("hit rate by bytes", lambda s: percent(s["hit_rate_bytes"])),
        ("hit rate by requests", lambda s: percent(s["hit_rate_requests"])),
        ("backend reads a boot", lambda s: f"{s['backend_requests']:,.0f}"),
        ("read amplification", lambda s: f"{s['amplification']:.3f}"),
    ]
    rows = [[name, *map(show, phases.values())] for name, show in figures]
    return table(["", *phases], rows, right=set(range(1, len(phases) + 1)))


def _cost(cost: Mapping[str, Any] | None) -> list[str]:
    if cost is None or cost["clones"] < 2:
        return []
    sentence = (
        f"Cache cost: the cache took in {cost['first_bytes'] / MIB:.1f} MiB while the first clone booted and"
        f" {cost['all_bytes'] / MIB:.1f} MiB for all {cost['clones']}, what the guests wrote included:"
        f" {cost['clones']} clones cost {cost['ratio']:.2f} times the first."
    )
    return [sentence]


def _slowness(cold: Mapping[str, Any] | None) -> list[str]:
    """What the throttled disks can show of a cold boot's time, and what not."""
    if cold is None:
        return []
    rate = cold["backend_requests"] / cold["seconds"]["median"]
    if rate >= THROTTLE:
        return []
    sentence = (
        f"About the boot times: a cold boot asked the whole array for {rate:.0f} reads a second on average. The demo's"
        f" disks are throttled by rate ({THROTTLE} requests a second each) and do not take a real disk's time for each"
        " request, so at this pace only bursts had to wait, and a cold boot here says little about one on real disks."
        " Requests, bytes and hits do not depend on that."
    )
    return [sentence]


def _histogram(latency: Mapping[str, Any]) -> str:
    return f"{latency['device']}, {latency['phase']}:\n\n```\n{ascii_form(latency['counts'])}\n```"
