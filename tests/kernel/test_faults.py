"""Drives and disks die, stutter, come back and are replaced while guests stamp and verify: no guest sees an error.

Each story is one machine. Guests go on all through it (inside/guests.py); everything is read back at its end. How soon
a death is told is counted in the service's looks, of which there is one every two seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import wait
from appliance.model import MIB
from tests.kernel.inside import disks, guests, rules, service, setup
from tests.kernel.lab import Disks, Job, Lab, Options
from tests.kernel.service_lab import Daemon

NVME, NEW_DISK = 0, 4
CLONES = ["guest-1", "guest-2"]
NO_CACHE, ONE_LEG, ONE_DISK = "the cache is not attached", "one leg only", "lacks 1 of 3 disks"
BY_ID = "/dev/disk/by-id/"
NAMES = {NVME: "nvme-LAB_0", 1: "ata-LAB_1", 2: "ata-LAB_2", 3: "ata-LAB_3"}


@dataclass
class Box:
    """A box in use whose drives can fail, and its guests."""

    lab: Lab
    daemon: Daemon
    life: Job

    def work(self, mode: str, more: int = 20) -> None:
        """Let the guests do this until told otherwise, and wait until each is well into it."""
        print(f"guests: {mode}", flush=True)
        self.lab.call(guests.work, mode, more, timeout=150)

    def die(self, *numbers: int, words: tuple[str, ...] = ()) -> None:
        """Let drives die: each must be told of by name at the second look at the latest, and all the words come."""
        seen = len(self.daemon.job.stderr)
        silent = [f"{NAMES[number]} does not answer" for number in numbers]
        told = self.lab.call(guests.fault, list(numbers), [*silent, *words], timeout=150)
        print("seconds from the death to the status that tells of it:", told, flush=True)
        for word in silent:  # the log says it a moment after the status does
            self.await_log(word, seen)
            said = self.daemon.job.stderr[seen:]
            assert said[: said.index(word)].count("looked at the store") <= 2, said

    def await_log(self, word: str, since: int) -> None:
        wait.until(lambda: word in self.daemon.job.stderr[since:], f"the service to log: {word}", deadline=60)

    def back(self, *numbers: int) -> None:
        """Drives work again: the store becomes whole by itself, its cache's settings as they must be."""
        self.lab.call(guests.back, list(numbers), timeout=200)
        print(f"whole again: {numbers}", flush=True)

    def replace(self, nvme: str = "", backend: Sequence[str] = ()) -> None:
        """What an operator does about dead drives: name others in their place and run the playbook."""
        if nvme:
            assert self.lab.call(setup.part, "nvme", timeout=240, devices=[BY_ID + nvme])["changed"]
        if backend:
            assert self.lab.call(setup.part, "backend", timeout=240, disks=[BY_ID + name for name in backend])[
                "changed"
            ]
        assert self.lab.call(setup.part, "store", timeout=240)["changed"] is bool(nvme)
        self.lab.call(guests.whole, timeout=240)
        print(f"whole again: {nvme} {backend}", flush=True)

    def end(self) -> None:
        """Stop the guests and read everything back: no error, nothing wrong."""
        self.lab.call(guests.tell, "stop")
        told = self.life.result()
        print({**told, "errors": len(told["errors"]), "wrong": len(told["wrong"])}, flush=True)
        assert told["errors"][:5] == []
        assert told["wrong"][:5] == []
        assert told["requests"] > 0
        assert told["stamps"] > 0


def uri(name: str) -> str:
    return f"nbd+unix:///{name}?socket=/run/hatchery/nbd/local/nbd.sock"


def begin_guests(lab: Lab, mode: str) -> Job:
    lab.call(guests.tell, mode)
    return lab.begin_call(guests.live, CLONES, timeout=1200)


@pytest.fixture
def box(tree: Path, prepared: Path) -> Iterator[Box]:
    """A store on drives 0 to 3; drive 9 and disk 4 are there to replace one."""
    options = Options(nvme=Disks.FAULTY, nvme_count=2, disks=Disks.FAULTY, disk_count=NEW_DISK)
    with Lab(tree, options, prepared=prepared) as lab:
        lab.begin(["hatchery-retry"])
        lab.run(["hatchery-store", "up"], timeout=120)
        daemon = Daemon(lab)
        lab.call(guests.add_template, "debian", timeout=120)
        for name in CLONES:
            lab.call(service.clones, name, "debian")
        made = Box(lab, daemon, begin_guests(lab, "write"))
        try:
            yield made
        finally:
            print(daemon.job.stderr)


def test_the_nvme_drive_dies_while_guests_boot_and_while_they_write(box: Box) -> None:
    for mode in ("write", "boot"):  # the second time the cache begins empty: reads miss and fill it
        box.work(mode)
        box.die(NVME, words=(NO_CACHE,))
        box.work("write")
        box.back(NVME)
        box.work("write")
    box.end()


@pytest.mark.heavy
def test_both_the_nvme_drive_and_a_disk_die_and_come_back(box: Box) -> None:
    box.work("write")
    box.die(NVME, 1, words=(NO_CACHE, ONE_DISK))
    box.work("write")
    box.back(NVME, 1)
    box.work("write")
    box.end()


@pytest.mark.heavy
def test_the_nvme_drive_dies_while_guests_are_idle_and_another_takes_its_place(box: Box) -> None:
    lab = box.lab
    box.work("write")
    box.work("idle")
    box.die(NVME)
    box.work("write")
    lab.call(guests.fault, [], [NO_CACHE, ONE_LEG], timeout=150)
    box.work("idle")
    box.replace(nvme="nvme-LAB_9")
    from_backend = lab.call(guests.await_warm, timeout=200)
    print(f"a new clone read {from_backend} of {guests.MIB_EACH * MIB} bytes from the backend")
    assert from_backend <= guests.MIB_EACH * MIB // 100, "the cache was not filled by itself"
    box.work("write")
    box.end()


@pytest.mark.heavy
def test_a_disk_dies_and_another_takes_its_place(box: Box) -> None:
    box.work("write")
    box.die(2, words=(ONE_DISK,))
    box.work("write")
    box.replace(backend=["ata-LAB_1", "ata-LAB_4", "ata-LAB_3"])
    box.work("write")
    box.end()


@pytest.mark.heavy
def test_the_nvme_drive_is_dead_at_start_up(box: Box) -> None:
    lab = box.lab
    box.work("write", 40)
    box.end()
    lab.restart()
    lab.call(disks.fail, NVME)
    lab.begin(["hatchery-retry"])
    lab.run(["hatchery-store", "up"], timeout=120)
    box.daemon = Daemon(lab)
    box.life = begin_guests(lab, "boot")
    box.work("boot")
    told = lab.call(guests.fault, [], [NO_CACHE, ONE_LEG])
    print("seconds until it was told of:", told)
    box.work("write")
    box.back(NVME)
    box.work("write")
    box.end()


@pytest.mark.heavy
def test_a_sector_that_stays_bad_reaches_one_guest_alone(box: Box) -> None:
    lab = box.lab
    box.work("write")
    lab.call(service.clones, "owner", "debian")
    lab.call(service.qemu_io, uri("owner"), "write -P 0xA5 1M 64k", "flush")
    where = lab.call(rules.find_content, (b"\xa5" * 512).hex())
    lab.call(rules.dust_data, where, 8)
    lab.call(service.cold)
    said = lab.run(["qemu-io", "-f", "raw", "-c", "read 1M 64k", uri("owner")], check=False, timeout=60)
    assert "Input/output error" in said.stdout + said.stderr
    said = lab.run(["qemu-io", "-f", "raw", "-c", "read -P 0xA5 1028k 60k", uri("owner")], check=False)
    assert said.returncode == 0, "the rest of its block can be read"
    assert "verification failed" not in lab.call(
        service.qemu_io, uri("owner"), "write -P 0x5A 1M 4k", "read -P 0x5A 1M 4k"
    )
    box.work("write")
    box.end()


@pytest.mark.heavy
def test_the_nvme_drive_and_a_disk_die_and_others_take_their_places(box: Box) -> None:
    box.work("write")
    box.die(NVME, 1, words=(NO_CACHE, ONE_DISK))
    box.work("write")
    box.replace(nvme="nvme-LAB_9", backend=["ata-LAB_4", "ata-LAB_2", "ata-LAB_3"])
    box.work("boot")
    box.work("write")
    box.end()


@pytest.mark.heavy
def test_a_disk_dies_and_comes_back(box: Box) -> None:
    box.work("write")
    box.die(2, words=(ONE_DISK,))
    box.work("write")
    box.back(2)
    box.work("write")
    box.end()


@pytest.mark.heavy
@pytest.mark.parametrize("number", [NVME, 2])
def test_a_drive_that_fails_now_and_then(box: Box, number: int) -> None:
    lab = box.lab
    box.work("write")
    lab.call(disks.flaky, number, 2, 1)
    for mode in ("write", "boot", "write"):
        box.work(mode, 60)
    lab.call(disks.heal, number)
    lab.run(["hatchery-store", "up"], timeout=120)
    lab.call(guests.whole, timeout=240)
    box.work("write")
    box.end()
