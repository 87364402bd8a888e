"""Rule 12: a kernel without the fixes that the store relies on is refused."""

import json

from tests.kernel.inside import setup
from tests.kernel.lab import Lab

OLD = ["setarch", "x86_64", "--uname-2.6"]


def test_an_older_kernel_is_refused_before_anything_is_touched(store: Lab) -> None:
    store.run(["hatchery-store", "down"])
    assert store.run([*OLD, "uname", "-r"]).stdout.startswith("2.6.")
    done = store.run([*OLD, "hatchery-store", "up"], check=False)
    assert done.returncode == 2
    assert "too old for the store" in done.stderr
    left = store.run(["sh", "-c", "dmsetup ls; ls /sys/block /sys/fs/bcache"]).stdout
    assert "md127" not in left
    assert "bcache0" not in left
    for part, spec in store.call(setup.specs).items():
        done = store.run(
            [*OLD, "hatchery-store", "setup", part, "--spec", "-", "--json"], stdin=json.dumps(spec), check=False
        )
        assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "refused"), part
    store.run(["hatchery-store", "up"])
