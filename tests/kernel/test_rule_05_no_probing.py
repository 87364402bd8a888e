"""Rule 5: what is inside a clone is the guest's; nothing on the appliance looks at it or acts on it."""

from pathlib import Path

import pytest

from tests.kernel.inside import rules, udev, volumes
from tests.kernel.lab import Lab

FIRST = 10


def clones_with_signatures(lab: Lab, rules_in_force: udev.Rules) -> list[str]:
    """Clones whose guests made file systems, a volume group, an array, a bcache device and partitions in them."""
    images = lab.call(udev.make_signatures)
    lab.call(udev.start, rules_in_force)
    lab.run(["hatchery-store", "up"])
    lab.call(rules.empty_template, 1, 16)
    devices = []
    for number, image in enumerate(images, start=FIRST):
        device = lab.call(volumes.make_clone, number, 1, 16)
        lab.run(["dd", f"if={image}", f"of={device}", "bs=1M", "oflag=direct", "conv=fsync"])
        devices.append(device)
    lab.call(udev.trigger, "change")
    # A start activates clones that have had their content for long.
    for number in range(FIRST, FIRST + len(images)):
        lab.call(rules.deactivate, number)
        lab.call(volumes.activate_clone, number, 16)
    lab.call(udev.trigger, "change")
    return [*devices, *lab.call(udev.announce, devices)]


def test_nothing_acts_on_what_a_clone_holds(tree: Path, prepared: Path) -> None:
    with Lab(tree, prepared=prepared) as lab:
        devices = clones_with_signatures(lab, udev.Rules.OURS)
        below = [device.replace("-clone-", "-thin-") for device in devices if "-clone-" in device]
        found = lab.call(udev.what_shows, [*devices, *below])
        assert {device: [fact for fact in facts if "holder dm-" not in fact] for device, facts in found.items()} == {
            device: [] for device in [*devices, *below]
        }
        assert len(lab.call(udev.arrays)) == 2, "an array was assembled from a clone"
        assert lab.run(["sh", "-c", "ls /sys/block | grep -c bcache"]).stdout == "1\n"
        assert lab.run(["test", "-e", "/dev/disk/by-label/intruder"], check=False).returncode != 0


@pytest.mark.heavy
def test_the_distributions_rules_alone_would(tree: Path, prepared: Path) -> None:
    with Lab(tree, prepared=prepared) as lab:
        devices = clones_with_signatures(lab, udev.Rules.DISTRIBUTION)
        found = lab.call(udev.what_shows, devices)
        shown = [fact for facts in found.values() for fact in facts]
        assert any(fact == "registered as bcache" for fact in shown), f"no guest's bcache device is taken: {shown}"
        assert any(fact.startswith("holder md") for fact in shown), f"no guest's array is assembled: {shown}"
        assert len(lab.call(udev.arrays)) == 3
