"""The page as the public server serves it, over the real API and a model of a store that has some of everything."""

import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import schema
from appliance.api import server
from appliance.api.app import make_app
from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.client import connect
from appliance.model import GIB, KIB, MIB, Extent, Health, Histogram, Problem
from appliance.service import prefetching
from appliance.web import app, main, page
from tests.unit.model import rest
from tests.unit.service_harness import IMAGE, Box, box


@dataclass
class Shown:
    """An appliance whose page is served at ``url``."""

    box: Box
    url: str


def array(name: str, level: str, size: int, *members: tuple[str, str]) -> schema.ArrayView:
    return schema.ArrayView(
        health=Health.OK, name=name, level=level, state="clean", size=size, sync_action="idle",
        sync_percent=None, members=tuple(schema.MemberView(device=d, state=s) for d, s in members),
    )  # fmt: skip


def pool(name: str, used: int, total: int) -> schema.PoolView:
    return schema.PoolView(
        health=Health.OK, name=name, mode="rw", data_used=used, data_total=total, metadata_used=3 * MIB,
        metadata_total=16 * MIB, block_bytes=64 * KIB, transaction_id=1,
    )  # fmt: skip


DISKS = tuple((disk, "in-sync") for disk in ("sda", "sdb", "sdc"))


PLACES = ((0, 64 * KIB), (MIB, 512 * KIB), (3 * MIB, 4 * KIB))
"""Of the one boot set, on its template's disk: begin and length."""


def store() -> schema.StoreView:
    return schema.StoreView(
        backend=array("hatchery-backend", "raid5", 8 * 1024 * GIB, *DISKS),
        meta=array("hatchery-meta", "raid1", 20 * GIB, ("nvme0n1p1", "in-sync"), ("md127p1", "in-sync, write-mostly")),
        cache=schema.CacheView(
            health=Health.OK, attached=True, mode="writeback", size=900 * GIB, settings_ok=True, bypassed_bytes=0,
            available_percent=92,
        ),
        pool=pool("durable", 5 * 1024 * GIB, 8 * 1024 * GIB),
        fast=pool("fast", 110 * GIB, 120 * GIB),
    )  # fmt: skip


def times(phase: schema.MeasuredPhase, seconds: float, hits: float) -> schema.BootTimes:
    return schema.BootTimes(
        phase=phase, boots=3, seconds_least=seconds * 0.9, seconds_median=seconds, seconds_most=seconds * 1.2,
        io_seconds=seconds * 0.6, read_bytes=148e6, backend_bytes=(1 - hits) * 148e6, hit_ratio=hits,
    )  # fmt: skip


class Working:
    """A store at work: each look at its counters finds more than the last."""

    def __init__(self) -> None:
        self.looks = 0

    def counters(self, clones: object) -> schema.Counters:
        del clones
        self.looks += 1
        done = self.looks * 40 * MIB
        return schema.Counters(
            taken=float(self.looks),
            cache=rest("nvme0n1p2"),
            cached=rest("bcache0").model_copy(update={"read_bytes": 10 * done}),
            backend=rest("md127").model_copy(update={"read_bytes": done}),
            meta=rest("md126"),
            disks=(rest("sda"), rest("sdb"), rest("sdc")),
            cache_stats=schema.CacheCounters(
                hits=98_000, misses=2_000, bypass_hits=0, bypass_misses=0, bypassed_bytes=0
            ),
            clones={},
        )

    def latencies(self) -> dict[str, Histogram]:
        slow = [0] * 11 + [3 * self.looks, 40 * self.looks, 400 * self.looks, 90 * self.looks, 5 * self.looks]
        quick = [0] * 4 + [50 * self.looks, 8_000 * self.looks, 900 * self.looks, 20 * self.looks]
        return {"ubda": Histogram(tuple(quick)), "ubdb": Histogram(tuple(slow))}


@contextmanager
def shown(folder: Path) -> Iterator[Shown]:
    """Serve it."""
    with pytest.MonkeyPatch.context() as patch, box(folder) as made:
        patch.setattr(prefetching, "check_sealed", lambda _: None)
        patch.setattr(page, "RENEW_SECONDS", 1)
        working = Working()
        patch.setattr(made.store, "counters", working.counters)
        patch.setattr(made.store, "disk_latencies", working.latencies)
        problem = Problem(Health.DEGRADED, "the fast pool's data is 92 % full", "remove ephemeral clones")
        patch.setattr(made.store, "look", lambda: (store(), (problem,)))
        fill(made)
        listener = server.listen(made.paths.read_socket, grp.getgrgid(os.getgid()).gr_name)
        with (
            server.Reader(make_app(made.service), listener),
            main.bound("127.0.0.1:0") as public,
            server.Reader(app.make_app(lambda: connect(socket=made.paths.read_socket)), public),
        ):
            address, port = public.getsockname()[:2]
            yield Shown(made, f"http://{address}:{port}/")


def fill(made: Box) -> None:
    """Templates, boot sets, clones, a client, measurements."""
    service = made.service
    for name, clones in (("debian-13", 40), ("ubuntu-26.04-server-with-a-long-name", 7), ("windows-2025", 0)):
        assert made.add_template(name).state == "succeeded"
        if clones:
            service.create_clones(schema.CloneCreate(name=f"{name[:6]}", template=name, count=clones))
    extents = tuple(Extent(*place) for place in PLACES)
    service.put_boot_set("debian-13", file.dump(file.BootSetFile("debian-13@1", None, BootSet(extents, len(IMAGE), 3))))
    address = {"address": "127.0.0.1", "port": 10809}
    service.put_client("hv1", schema.ClientSpec.model_validate({"transport": "tcp", "plain": True, **address}))
    for drift in (1.0, 1.2, 0.9, 1.0, 0.8, 0.85):
        phases = (
            times("cold", 61 * drift, 0.02),
            times("prefetched", 11.5 * drift, 0.998),
            times("warm", 11 * drift, 1),
        )
        service.measurements.add("debian-13", schema.Measured(on="hv1, 16 processors, KVM", phases=phases))
    service.measurements.add("windows-2025", schema.Measured(on="hv1", phases=(times("cold", 240, 0.1),)))
