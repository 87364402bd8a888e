"""Rule 3: new blocks are zeroed, so that no tenant reads what another left behind."""

from tests.kernel.inside import rules, volumes
from tests.kernel.lab import Lab

MIB = 8
SECTORS = MIB * 2048
BLOCKS = MIB * 16


def leave_secrets(lab: Lab) -> None:
    """Free blocks full of another tenant's data, which the pool will use next: after a start it begins at the first."""
    lab.call(rules.leave_secrets, 1, MIB)
    lab.run(["hatchery-store", "down"])
    lab.run(["hatchery-store", "up"])


def test_a_partly_written_new_block_holds_zeros_and_nobody_elses_data(store: Lab) -> None:
    assert "skip_block_zeroing" not in store.call(rules.pool_features)
    leave_secrets(store)
    found = store.call(rules.sectors_like, store.call(rules.write_one_sector_a_block, 2, MIB), MIB)
    assert found == {"secret": 0, "own": BLOCKS, "zero": SECTORS - BLOCKS, "other": 0}


def test_with_the_forbidden_feature_old_data_shows_and_health_and_start_object(store: Lab) -> None:
    leave_secrets(store)
    store.call(rules.reload_pool, adding="skip_block_zeroing")
    found = store.call(rules.sectors_like, store.call(rules.write_one_sector_a_block, 2, MIB), MIB)
    assert found["secret"] > SECTORS // 2, "the scenario does not show what the rule prevents"
    assert any("not zeroed" in problem["what"] for problem in store.call(volumes.health)["problems"])
    done = store.run(["hatchery-store", "up"], check=False)
    assert (done.returncode, "not zeroed" in done.stderr) == (2, True)
