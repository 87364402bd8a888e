"""Metrics over the real API."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance import schema
from appliance.cli import boot_set as boot_set_words
from appliance.host import netlink
from appliance.model import MIB, Health, Histogram, Problem, Protocol
from appliance.web import app, metrics, page, shapes, template_metrics
from tests.unit.service_harness import Box, box
from tests.unit.web_server import Series, filled, read_socket, served, values

CONNECTIONS = "hatchery_client_connections"


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.fixture
def reading(appliance: Box) -> Iterator[Path]:
    with read_socket(appliance) as socket_:
        yield socket_


@pytest.fixture
def web(reading: Path) -> Iterator[httpx.Client]:
    with served(reading) as client:
        yield client


def test_metrics_say_what_the_api_says(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    answer = web.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = values(answer.text)
    status = appliance.service.status()
    assert found["hatchery_health", (("hatchery_health", status.health.value),)] == 1
    assert found["hatchery_templates", ()] == 1
    assert found["hatchery_template_clones", (("template", "debian@1"),)] == 2
    assert found["hatchery_clones", (("kind", "durable"), ("state", "ready"), ("template", "debian@1"))] == 2
    assert found["hatchery_client_clones", (("client", "local"),)] == 2
    certificate = "hatchery_client_certificate_expiry_timestamp_seconds"
    assert [key for key in found if key[0] == certificate] == []
    counters = appliance.service.measure.counters()
    device = (("device", counters.backend.name), ("role", "backend"))
    assert found["hatchery_device_read_bytes_total", device] == counters.backend.read_bytes


def test_connections_by_nbd_and_by_nvme_are_counted(
    appliance: Box, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {4420: (netlink.Connection("10.0.0.9:1", "1"),) * 3, 10809: (netlink.Connection("10.0.0.9:2", "2"),) * 2}
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5"}))
    monkeypatch.setattr(netlink, "tcp_connections", lambda port: there[port])
    filled(appliance)
    tcp = schema.ClientSpec(transport="tcp", address="10.0.0.5", port=10809, plain=True)
    appliance.service.put_client("hv1", tcp)
    appliance.service.put_nvme_door(
        "hv1", schema.NvmeSpec(address="10.0.0.5", port=4420, host_nqn="nqn.2020-01.org.x:1")
    )
    appliance.service.issue_nvme_key("hv1", schema.NvmeKeyRequest())
    appliance.service.clones.detach("web-1", force=False)
    appliance.service.attach("web-1", schema.Attachment(client="hv1", protocol=Protocol.NVME_TCP))
    found = {key[1]: value for key, value in values(web.get("/metrics").text).items() if key[0] == CONNECTIONS}
    assert found[("client", "hv1"), ("protocol", "nbd")] == 2
    assert found[("client", "hv1"), ("protocol", "nvme-tcp")] == 3
    assert (("client", "local"), ("protocol", "nvme-tcp")) not in found
    assert '<td class="number">2 + 3 by NVMe/TCP</td>' in web.get("/").text


def test_latencies_of_attached_clones_are_a_histogram_unless_these_are_too_many(
    appliance: Box, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(appliance)
    appliance.service.clones.detach("web-1", force=False)
    thin_id = appliance.service.core.catalog.clone("web-2").thin_id
    appliance.store.latencies[thin_id] = Histogram((1, 0, 5, *(0,) * 21, 2), 40.5)
    found = values(web.get("/metrics").text)
    buckets = histogram(found, "hatchery_clone_latency_seconds", clone="web-2")
    assert [buckets[le] for le in ("2e-06", "4e-06", "8e-06", "16.777216", "+Inf")] == [1, 1, 6, 6, 8]
    assert len(buckets) == 25
    assert found["hatchery_clone_latency_seconds_sum", (("clone", "web-2"),)] == 40.5
    assert found["hatchery_clone_latency_seconds_count", (("clone", "web-2"),)] == 8
    assert not any(dict(labels).get("clone") == "web-1" and "latency" in name for name, labels in found)
    appliance.service.clones.attach("web-1", "local")
    monkeypatch.setattr(app, "MOST_LATENCIES", 1)
    assert not any("clone_latency" in name for name, _ in values(web.get("/metrics").text))


def histogram(found: Series, name: str, **labels: str) -> dict[str, float]:
    """The buckets of one histogram, by their limits."""
    return {
        dict(every)["le"]: value
        for (series, every), value in found.items()
        if series == f"{name}_bucket" and {key: text for key, text in every if key != "le"} == labels
    }


def done(thin_id: int, device: str, reads: int) -> schema.DeviceCounters:
    return schema.DeviceCounters(
        name=device, reads=reads, read_bytes=4096 * reads, writes=thin_id, write_bytes=0, discards=0
    )


class Whole:
    """What a template's and a client's clones have done together, scrape by scrape."""

    def __init__(self, web: httpx.Client) -> None:
        self._web = web

    def look(self) -> tuple[float, float, float, float]:
        """Reads and timed requests of the template's clones, the same of the client's."""
        found = values(self._web.get("/metrics").text)
        template, client = (("template", "debian@1"),), (("client", "local"),)
        return (
            found["hatchery_template_reads_total", template],
            found["hatchery_template_latency_seconds_count", template],
            found["hatchery_client_reads_total", client],
            found["hatchery_client_latency_seconds_count", client],
        )


def test_templates_and_clients_count_what_their_clones_do_together(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    one, two = (appliance.service.core.catalog.clone(name).thin_id for name in ("web-1", "web-2"))
    work, latencies, whole = appliance.store.work, appliance.store.latencies, Whole(web)
    work[one], work[two] = done(one, "dm-1", 1000), done(two, "dm-2", 500)
    latencies[one] = Histogram((1000,), 1.0)
    assert whole.look() == (0, 0, 0, 0), "what was done before is no burst of now"
    work[one] = done(one, "dm-1", 1010)
    latencies[one] = Histogram((1000, 10), 1.5)
    assert whole.look() == (10, 10, 10, 10)
    found = values(web.get("/metrics").text)
    assert found["hatchery_template_latency_seconds_sum", (("template", "debian@1"),)] == 0.5
    assert found["hatchery_template_read_bytes_total", (("template", "debian@1"),)] == 40960
    buckets = histogram(found, "hatchery_client_latency_seconds", client="local")
    assert (buckets["2e-06"], buckets["4e-06"], buckets["+Inf"]) == (0, 10, 10)

    appliance.service.clones.detach("web-1", force=False)
    assert whole.look() == (10, 10, 10, 10), "a clone that goes takes nothing with it"
    appliance.service.clones.attach("web-1", "local")
    work[one], latencies[one] = done(one, "dm-9", 2000), Histogram((2000,), 1.0)
    assert whole.look() == (2010, 2010, 2010, 2010), "a device that is new counts from zero"


def test_many_clones_latencies_are_looked_at_in_turns(
    appliance: Box, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.add_template("debian")
    appliance.service.create_clones(schema.CloneCreate(name="web", template="debian", count=5))
    ids = [appliance.service.core.catalog.clone(f"web-{n}").thin_id for n in range(1, 6)]
    monkeypatch.setattr(app, "MOST_LATENCIES", 2)
    asked: list[int] = []
    counts = {thin_id: Histogram((0,) * 25, 0.0) for thin_id in ids}

    def latencies(thin_id: int) -> Histogram:
        asked.append(thin_id)
        return counts[thin_id]

    monkeypatch.setattr(appliance.store, "clone_latencies", latencies)
    whole = Whole(web)
    for _ in range(3):
        whole.look()
    assert asked == ids, "a scrape asks for so many, and all have their turn"
    counts.update({thin_id: Histogram((3, *(0,) * 24), 0.0) for thin_id in ids})
    assert [whole.look()[1] for _ in range(4)] == [6, 12, 15, 15]
    assert not any("clone_latency" in name for name, _ in values(web.get("/metrics").text))


def test_who_has_gone_is_not_told_any_more(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    appliance.service.put_client("hv1", schema.ClientSpec(transport="unix"))
    key = ("hatchery_client_reads_total", (("client", "hv1"),))
    assert values(web.get("/metrics").text)[key] == 0
    appliance.service.clients.remove("hv1")
    assert key not in values(web.get("/metrics").text)


def test_both_pools_have_their_requests(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    found = values(web.get("/metrics").text)
    assert {dict(labels)["pool"] for name, labels in found if name == "hatchery_pool_reads_total"} == {
        "durable",
        "fast",
    }
    assert ("hatchery_device_reads_total", (("device", "dm-900"), ("role", "fast"))) in found


def test_alarms_are_told_by_part_and_rule(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    appliance.store.problems = (
        Problem(Health.DEGRADED, "4096 bytes went past the cache", "find out", 1, "cache"),
        Problem(Health.FAILED, "something else", "see"),
    )
    appliance.units.kill("local")
    found = values(web.get("/metrics").text)
    alarms = {labels: value for (name, labels), value in found.items() if name == "hatchery_alarms"}
    raised = {tuple(text for _, text in labels): value for labels, value in alarms.items() if value}
    assert raised == {("cache", "1", "degraded"): 1, ("", "", "failed"): 1, ("client", "", "failed"): 1}
    assert {dict(labels)["part"] for labels in alarms} == {*schema.PARTS, ""}
    assert found["hatchery_problems", (("severity", "failed"),)] == 2


def test_metrics_say_when_a_clients_last_certificate_ends(appliance: Box, web: httpx.Client) -> None:
    appliance.service.put_client("hv1", schema.ClientSpec(transport="tcp", address="127.0.0.1", port=10809))
    ends = []
    for seconds in (7200, 3600):
        request = schema.CertificateRequest(kind="rotation", seconds=seconds)
        ends.append(appliance.service.issue_certificate("hv1", request).expires)
    key = ("hatchery_client_certificate_expiry_timestamp_seconds", (("client", "hv1"),))
    assert values(web.get("/metrics").text)[key] == ends[0]
    appliance.service.certificates.revoke("hv1", "all")
    assert key not in values(web.get("/metrics").text)


def test_every_metric_has_help_and_a_conventional_name(appliance: Box, web: httpx.Client) -> None:
    filled(appliance)
    families = list(text_string_to_metric_families(web.get("/metrics").text))
    assert len(families) > 40
    for family in families:
        assert family.documentation, family.name
        assert family.name.startswith("hatchery"), family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name


def test_a_disks_histogram_is_cumulative_and_in_seconds() -> None:
    assert shapes.buckets((1, 0, 3), 5) == [("2e-06", 1), ("4e-06", 1), ("8e-06", 4), ("+Inf", 5)]


def test_arrays_cache_and_pools_are_told(appliance: Box) -> None:
    members = (schema.MemberView(device="sda1", state="in-sync"), schema.MemberView(device="sdb1", state="faulty"))
    backend = schema.ArrayView(
        health=Health.DEGRADED, name="hatchery-backend", level="raid5", state="clean", size=7, sync_action="recover",
        sync_percent=12.5, members=members, missing=1,
    )  # fmt: skip
    cache = schema.CacheView(
        health=Health.OK, attached=True, mode="writethrough", size=MIB, settings_ok=True, bypassed_bytes=0,
        available_percent=99,
    )  # fmt: skip
    pool = schema.PoolView(
        health=Health.OK, name="durable", mode="rw", data_used=3, data_total=9, metadata_used=1, metadata_total=2,
        block_bytes=65536, transaction_id=1,
    )  # fmt: skip
    store = schema.StoreView(backend=backend, meta=None, cache=cache, pool=pool, last_backup=1.75e9)
    status = appliance.service.status().model_copy(update={"store": store, "health": Health.DEGRADED})
    answers = metrics.Answers(status, None, (), ())
    found = values(metrics.text(answers).decode())
    array = (("array", "hatchery-backend"),)
    assert found["hatchery_health", (("hatchery_health", "degraded"),)] == 1
    assert found["hatchery_array_members", array] == 2
    assert found["hatchery_array_members_in_sync", array] == 1
    assert found["hatchery_array_members_missing", array] == 1
    assert found["hatchery_backup_timestamp_seconds", ()] == 1.75e9
    assert found["hatchery_array_sync_ratio", (("action", "recover"), *array)] == 0.125
    assert found["hatchery_cache_attached", ()] == 1
    assert found["hatchery_cache_available_ratio", ()] == 0.99
    assert found["hatchery_pool_data_used_bytes", (("pool", "durable"),)] == 3
    shown = page.render(answers, {})
    for words in ("sdb1: faulty", "recover 12.5 %", "durable pool, data", "3 B of 9 B, 33.3 %"):
        assert words in shown


def test_prefetch_is_told_with_its_useful_and_wasted_bytes(appliance: Box) -> None:
    filled(appliance)
    boot_set = schema.BootSetSummary(
        total_bytes=10 * MIB, extents=3, runs=2, guessed=False, changed=1.0, wasted_bytes=MIB
    )
    prefetch = schema.PrefetchView(
        state="warm", why="asked for", total_bytes=10 * MIB, passes=2, backend_bytes=11 * MIB, seconds=2.5, began=7.0
    )
    service = appliance.service
    template = service.show_template("debian").model_copy(update={"boot_set": boot_set, "prefetch": prefetch})
    found = values(metrics.text(metrics.Answers(service.status(), None, (template,), ())).decode())
    label = (("template", "debian@1"),)
    assert found["hatchery_boot_set_useful_bytes", label] == 9 * MIB
    assert found["hatchery_boot_set_wasted_bytes", label] == MIB
    assert found["hatchery_prefetch_backend_bytes", label] == 11 * MIB
    assert found["hatchery_prefetch_wasted_bytes", label] == MIB
    states = {
        state: found["hatchery_prefetch_state", (("hatchery_prefetch_state", state), *label)]
        for state in template_metrics.PREFETCH_STATES
    }
    assert states == {"waiting": 0, "running": 0, "warm": 1, "incomplete": 0, "failed": 0, "stopped": 0}
    assert found["hatchery_prefetch_bytes_per_second", label] == 0
    running = prefetch.model_copy(update={"state": "running", "done_bytes": MIB, "rate": 3 * MIB})
    template = template.model_copy(update={"prefetch": running})
    answers = metrics.Answers(service.status(), None, (template,), ())
    assert values(metrics.text(answers).decode())["hatchery_prefetch_bytes_per_second", label] == 3 * MIB
    assert "3.0 MiB/s" in page.render(answers, {})
    assert "3.0 MiB/s" in boot_set_words.prefetch_words(running)
    assert not any(name.startswith("hatchery_device") for name, _ in found)
    whole = template.model_copy(update={"prefetch": prefetch.model_copy(update={"total_bytes": 64 * MIB})})
    unjudged = whole.model_copy(update={"boot_set": boot_set.model_copy(update={"wasted_bytes": None})})
    for view, wasted in ((whole, 55 * MIB), (unjudged, None)):
        told = values(metrics.text(metrics.Answers(service.status(), None, (view,), ())).decode())
        assert told.get(("hatchery_prefetch_wasted_bytes", label)) == wasted, "what is read whole counts too"
