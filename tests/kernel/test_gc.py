"""Space comes back exactly, block for block, from everything that can go."""

import json
from collections.abc import Iterator

import pytest

from appliance.model import MIB
from tests.kernel.inside import gc as inside
from tests.kernel.inside import service
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

BLOCK = 64 * 1024
LARGE = 300 * MIB
"""More than goes at once with a request."""


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(service.add_image, "debian")
    yield running
    print(running.job.stderr)


def hatchery(lab: Lab, *words: str) -> None:
    lab.run(["hatchery", *words])


def create(lab: Lab, name: str, *options: str) -> None:
    hatchery(lab, "clone", "create", name, "--template", "debian", *options)


def test_what_guests_and_operators_give_up_comes_back_block_for_block(daemon: Daemon) -> None:
    lab = daemon.lab
    before = lab.call(inside.used)
    create(lab, "removed")
    create(lab, "trimmed")
    create(lab, "quick", "--ephemeral")
    for name in ("removed", "trimmed", "quick"):
        lab.call(inside.scribble, name)
    full = lab.call(inside.used)
    assert full["durable"] - before["durable"] == 2 * 4 * MIB // BLOCK
    assert full["fast"] - before["fast"] == 4 * MIB // BLOCK
    hatchery(lab, "clone", "remove", "removed")
    assert full["durable"] - lab.call(inside.used)["durable"] == 4 * MIB // BLOCK
    lab.call(inside.trim, "trimmed")
    lab.call(inside.trim, "quick")
    assert lab.call(inside.used) == before
    lab.call(inside.scribble, "trimmed")
    lab.call(inside.scribble, "quick")
    hatchery(lab, "clone", "reset", "trimmed")
    hatchery(lab, "clone", "remove", "quick")
    assert lab.call(inside.used) == before
    create(lab, "brief", "--expires", "1s")
    lab.call(inside.scribble, "brief")
    assert lab.call(inside.used) != before
    lab.call(inside.collect_leases)
    assert lab.call(inside.used) == before
    hatchery(lab, "clone", "remove", "trimmed")
    # A superseded version goes with its last clone.
    create(lab, "old")
    lab.call(service.add_image, "debian", 2)
    with_two = lab.call(inside.used)["durable"]
    hatchery(lab, "template", "remove", "debian@1", "--when-unused")
    assert lab.call(inside.used)["durable"] == with_two
    hatchery(lab, "clone", "remove", "old")
    assert lab.call(inside.used) == before
    assert lab.call(service.status)["problems"] == []


@pytest.mark.heavy
def test_orphans_are_told_with_their_bytes_and_go_when_an_operator_asks(daemon: Daemon) -> None:
    lab = daemon.lab
    create(lab, "kept")
    lab.call(inside.scribble, "kept")
    before = lab.call(inside.used)
    lab.call(inside.orphan, 4711, LARGE)
    lab.call(inside.orphan, 4712, 2 * MIB)
    daemon.kill()
    found = lab.call(inside.report)
    states = {int(thin_id): volume["state"] for thin_id, volume in found.items()}
    assert {states[4711], states[4712]} == {"orphaned"}
    assert found["4711"]["exclusive_bytes"] == LARGE
    assert found["4712"]["exclusive_bytes"] == 2 * MIB
    kept = [volume for volume in found.values() if volume["why"] == "clone kept"]
    assert [(volume["state"], volume["reclaimed"]) for volume in kept] == [("serving", False)]
    assert kept[0]["exclusive_bytes"] == 4 * MIB
    dry = json.loads(lab.run(["hatchery", "--json", "gc", "--dry-run"]).stdout)
    assert dry["reclaimable_bytes"] == LARGE + 2 * MIB
    assert sorted(lab.call(service.volumes))[-2:] == [4711, 4712], "a dry run changes nothing"
    assert lab.call(inside.collect) == "2 volume(s) given back"
    found_jobs = json.loads(lab.run(["hatchery", "--json", "operation", "list"]).stdout)
    [done] = [each for each in found_jobs if each["kind"] == "gc"]
    assert done["done_bytes"] == done["total_bytes"] == LARGE + 2 * MIB
    assert lab.call(inside.used) == before
    assert lab.call(service.status)["problems"] == []
