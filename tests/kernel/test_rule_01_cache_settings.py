"""Rule 1: nothing goes past the cache; its settings are set and verified at every start."""

import json
import time

import pytest

from appliance import wait
from appliance.store import bypass
from tests.kernel.inside import rules, volumes
from tests.kernel.lab import Lab

WANTED = {
    "sequential_cutoff": "0",
    "congested_read_threshold_us": "0",
    "congested_write_threshold_us": "0",
    "cache_mode": "writethrough",
}
BROKEN = {
    "sequential_cutoff": str(4 * 1024 * 1024),
    "congested_read_threshold_us": "2000",
    "congested_write_threshold_us": "20000",
    "cache_mode": "writearound",
}
MIB = 1024 * 1024


def up(lab: Lab) -> None:
    lab.run(["hatchery-store", "up"])


def settings(lab: Lab) -> dict[str, str]:
    return {name: lab.call(rules.setting, name).replace("0.0k", "0") for name in WANTED}


def test_settings_hold_after_a_power_cut(store: Lab) -> None:
    assert settings(store) == WANTED
    store.restart()
    up(store)
    assert settings(store) == WANTED


def test_a_wrong_setting_is_reported_and_put_right(store: Lab) -> None:
    for name, value in BROKEN.items():
        store.call(rules.set_setting, name, value)
        health = store.call(volumes.health)
        assert health["cache"]["settings_ok"] is False, name
        assert health["cache"]["health"] == "failed", name
        assert any(name in problem["what"] for problem in health["problems"]), name
        up(store)
        assert settings(store) == WANTED, name
        assert store.call(volumes.health)["problems"] == [], name


def test_a_cache_is_attached_with_its_settings(store: Lab) -> None:
    """Guests' requests come in the moment that the cache is back: settings that come after it are too late."""
    for name, value in BROKEN.items():
        if name.startswith("congested"):
            store.call(rules.set_setting, name, value)
    store.call(rules.attach_anew)
    assert settings(store) == WANTED

    store.run(["hatchery-store", "down"])
    drive = "/dev/disk/by-id/nvme-LAB_0"
    store.run(["mv", drive, "/run/lab/nvme-away"])
    up(store)
    store.run(["mv", "/run/lab/nvme-away", drive])
    store.call(rules.register_cache)
    assert settings(store) == WANTED


@pytest.mark.heavy
def test_large_sequential_requests_go_through_the_cache_and_the_alarm_hears_those_that_do_not(store: Lab) -> None:
    volume = store.call(rules.plain_volume, 1, 64)
    before = store.call(rules.cache_writes)
    dd = ["dd", "if=/dev/zero", f"of={volume}", "bs=4M", "oflag=direct", "conv=fsync"]
    store.run([*dd, "count=12"])
    # Not all of it: a write is cached only if a bucket is free at once.
    assert store.call(rules.cache_writes) - before > 24 * MIB, "writes went past the cache"
    store.call(rules.read_through, volume, 24)
    assert store.call(rules.counted, 6) == 0
    assert store.call(volumes.health)["problems"] == []

    # The same with the kernel's default: the write is not in the cache, and the alarm hears it.
    store.call(rules.set_setting, "sequential_cutoff", str(4 * 1024 * 1024))
    before = store.call(rules.cache_writes)
    store.run([*dd, "count=12"])
    assert store.call(rules.cache_writes) - before < 24 * MIB, "the scenario does not show what the rule prevents"
    up(store)

    def alarm() -> bool:
        return any("went past the cache" in problem["what"] for problem in store.call(volumes.health)["problems"])

    wait.until(alarm, "the alarm", deadline=60, interval=1)


@pytest.mark.heavy
def test_a_cache_that_is_emptied_under_load_is_no_alarm(store: Lab) -> None:
    volume = store.call(rules.plain_volume, 1, 64)
    store.run(["dd", "if=/dev/zero", f"of={volume}", "bs=1M", "count=48", "oflag=direct"])
    load = ["fio", "--name=load", f"--filename={volume}", "--direct=1", "--ioengine=libaio", "--iodepth=16"]
    job = store.begin([*load, "--rw=randrw", "--bs=16k", "--size=48M", "--time_based", "--runtime=300"])
    assert store.call(rules.empty_until_bypassed, timeout=120) > 0
    job.kill()
    assert store.call(volumes.health)["problems"] == []
    settled = time.monotonic() + bypass.SETTLE + 1
    wait.until(lambda: time.monotonic() > settled, "the counter to settle", deadline=60, interval=1)
    assert store.call(volumes.health)["problems"] == []


def test_writearound_is_refused(store: Lab) -> None:
    spec = json.dumps({"cache_mode": "writearound", "block_kib": 64})
    done = store.run(["hatchery-store", "setup", "store", "--spec", "-", "--json"], stdin=spec, check=False)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid-input"
    assert "writearound" in error["what"]
    assert settings(store) == WANTED
