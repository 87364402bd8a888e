"""The doctor on a real store: it finds nothing, then what was broken; and the archive that is made of it all."""

import json
from typing import Any

from tests.kernel.inside import rules
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon


def wrong(lab: Lab) -> dict[int | None, Any]:
    """What the doctor finds, by the rule."""
    done = lab.run(["hatchery", "doctor", "--json"], check=False)
    found = {check["rule"]: check for check in json.loads(done.stdout)["checks"] if check["state"] != "ok"}
    assert done.returncode == (10 if found else 0)
    return found


def template_layer(lab: Lab) -> str:
    """The device of the one template."""
    [name] = [name for name in lab.call(inside.devices) if name.startswith("hatchery-template-")]
    return str(name)


def test_the_doctor_finds_what_is_broken_and_nothing_else(store: Lab) -> None:
    Daemon(store)
    store.call(inside.add_image, "debian")
    store.call(inside.clones, "web", "debian")
    assert wrong(store) == {}

    # What is broken here is mended again, one after the other, so that each is seen alone.
    template = template_layer(store)
    store.call(rules.reload_pool, without="no_discard_passdown")
    assert set(wrong(store)) == {13}
    store.call(rules.reload_pool, adding="no_discard_passdown")
    store.call(rules.reload_pool, adding="skip_block_zeroing")
    assert set(wrong(store)) == {3}
    store.call(rules.reload_pool, without="skip_block_zeroing")
    store.call(rules.unseal, template)
    assert 11 in wrong(store)
    store.run(["hatchery", "store", "reconcile"])
    assert wrong(store) == {}
    # As udev's own rules leave it: there is no udev here.
    record = store.call(rules.udev_record, template, "E:ID_FS_TYPE=ext4")
    assert set(wrong(store)) == {5}
    store.run(["rm", record])
    assert wrong(store) == {}

    [layer] = [name for name in store.call(inside.devices) if name.startswith("hatchery-clone-")]
    store.call(rules.set_setting, "sequential_cutoff", str(4 << 20))
    store.run(["dmsetup", "message", layer, "0", "fail_if_no_path"])
    found = wrong(store)
    assert set(found) == {1, 7}
    assert "sequential_cutoff" in found[1]["problems"][0]["what"]
    assert layer in found[7]["problems"][0]["what"]
    assert all(problem["hint"] for check in found.values() for problem in check["problems"])

    store.run(["hatchery", "support-bundle", "/run/bundle.tar.gz"])
    names = store.run(["tar", "--list", "--file", "/run/bundle.tar.gz"]).stdout
    assert names.count("api/doctor.json") == 1
    table = ["tar", "--extract", "--to-stdout", "--wildcards", "--file", "/run/bundle.tar.gz", "*/dm-table.txt"]
    assert layer in store.run(table).stdout
