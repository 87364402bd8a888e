"""Guests that go on through every fault: they stamp and verify blocks of their clones over NBD, many at a time.

What they do is read from a file ("boot" reads only, "write" writes and reads, "idle", "stop"), how it goes is in
another. Every part of a clone has one guest alone, which knows at any time what each of its blocks must hold.
"""

import hashlib
import json
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance import wait
from appliance.client import connect
from appliance.model import KIB, MIB
from tests.kernel.inside import disks, rules, service, volumes
from tests.kernel.inside.agent import write_whole
from tests.kernel.inside.nbd_client import NbdClient
from tests.kernel.inside.volumes import content

BLOCK = 4 * KIB
READ = 8
"""Blocks in one read of a guest that boots."""

MIB_EACH = 8
"""Size of a clone, all of it data: every read reaches the cache or the backend."""

_SEED = 77
_MODE = Path("/run/lab/guests.mode")
_TOLD = Path("/run/lab/guests-told.json")
_LEDGER = Path("/lab/guests.ledger")


@dataclass
class _Guest:
    clone: str
    first: int
    count: int
    original: bytes
    dice: random.Random
    stamps: dict[int, int] = field(default_factory=dict)
    requests: int = 0
    longest: float = 0.0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def work(self) -> None:
        pause = threading.Event()
        with NbdClient(self.clone, deadline=180.0) as client:
            while (mode := _mode()) != "stop":
                if mode == "idle":
                    pause.wait(0.05)
                    continue
                if mode == "write":
                    self._write(client)
                self._verify(client, self.first + self.dice.randrange(self.count - READ + 1), READ)
            client.flush()  # what was not flushed may be gone after a power cut, and the ledger is kept over one

    def verify_all(self) -> None:
        """Read every block of the part."""
        with NbdClient(self.clone, deadline=180.0) as client:
            for block in range(self.first, self.first + self.count, READ):
                self._verify(client, block, min(READ, self.first + self.count - block))

    def _write(self, client: NbdClient) -> None:
        block = self.first + self.dice.randrange(self.count)
        number = self.stamps.get(block, 0) + 1
        begin = time.monotonic()
        try:
            client.write(block * BLOCK, self._content(block, number))
            self.stamps[block] = number
            if number % 8 == 0:
                client.flush()
        except OSError as error:
            self.errors.append(f"{self.clone}: write of block {block}: {error}")
        self._answered(begin)

    def _verify(self, client: NbdClient, block: int, count: int) -> None:
        begin = time.monotonic()
        try:
            data = client.read(block * BLOCK, count * BLOCK)
        except OSError as error:
            self.errors.append(f"{self.clone}: read of block {block}: {error}")
            return
        finally:
            self._answered(begin)
        for index in range(count):
            number = self.stamps.get(block + index, 0)
            found = data[index * BLOCK : (index + 1) * BLOCK]
            if found != self._content(block + index, number):
                self.wrong.append(f"{self.clone}: block {block + index} has {found[:32]!r}, not stamp {number}")

    def _answered(self, begin: float) -> None:
        self.requests += 1
        self.longest = max(self.longest, time.monotonic() - begin)

    def _content(self, block: int, number: int) -> bytes:
        if number == 0:
            return self.original[block * BLOCK : (block + 1) * BLOCK]
        words = f"{self.clone} block {block} stamp {number} ".encode()
        return words + (hashlib.sha256(words).digest() * (BLOCK // 32))[len(words) :]


def _mode() -> str:
    return _MODE.read_text(encoding="ascii")


def tell(mode: str) -> None:
    """What the guests are to do from now on."""
    write_whole(_MODE, mode)


def add_template(name: str) -> None:
    """Import what the clones begin as."""
    path = Path(f"/run/{name}.raw")
    path.write_bytes(content(_SEED, MIB_EACH))
    service.add(name, str(path), "raw")
    path.unlink()


def live(clones: list[str], threads: int = 3, seed: int = 1) -> dict[str, Any]:
    """Be the guests of these clones until told to stop; then read everything back. What a former call wrote counts.

    Returns the number of requests, the errors and wrong contents as sentences, the longest wait in seconds.
    """
    os.nice(10)  # real guests have processors of their own
    original = content(_SEED, MIB_EACH)
    blocks = len(original) // BLOCK // threads
    ledger = json.loads(_LEDGER.read_text(encoding="utf-8")) if _LEDGER.exists() else {}
    guests = []
    for name in clones:
        for number in range(threads):
            known = {int(block): stamp for block, stamp in ledger.get(f"{name}.{number}", {}).items()}
            dice = random.Random(f"{seed} {name} {number}")
            guests.append(_Guest(name, number * blocks, blocks, original, dice, known))
    running = [threading.Thread(target=guest.work, daemon=True) for guest in guests]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        _tell_how(guests)
        running[0].join(0.2)
    for guest in guests:
        guest.verify_all()
    _tell_how(guests)
    write_whole(
        _LEDGER,
        json.dumps({f"{guest.clone}.{index % threads}": guest.stamps for index, guest in enumerate(guests)}),
    )
    return progress()


def _tell_how(guests: list[_Guest]) -> None:
    found = {
        "requests": sum(guest.requests for guest in guests),
        "least": min(guest.requests for guest in guests),
        "stamps": sum(len(guest.stamps) for guest in guests),
        "errors": [error for guest in guests for error in guest.errors],
        "wrong": [wrong for guest in guests for wrong in guest.wrong],
        "longest": max(guest.longest for guest in guests),
    }
    write_whole(_TOLD, json.dumps(found))


def progress() -> dict[str, Any]:
    """How it goes."""
    found: dict[str, Any] = json.loads(_TOLD.read_text(encoding="utf-8"))
    return found


def go_on(more: int, deadline: float = 120.0) -> None:
    """Wait until every guest has had ``more`` answers from now on."""
    wait.until(_TOLD.exists, "the guests to begin", deadline=deadline)
    begin = progress()["least"]
    wait.until(lambda: progress()["least"] >= begin + more, "the guests to go on", deadline=deadline)


# --- faults, and what the appliance says of them


def _problems() -> str:
    with connect() as client:
        return "; ".join(problem.what for problem in client.status().problems)


def fault(numbers: list[int], words: list[str], deadline: float = 120.0) -> dict[str, float]:
    """Let drives die, and ask for the status until it has all the words: the seconds after which each was there."""
    begin = time.monotonic()
    for number in numbers:
        disks.fail(number)
    told: dict[str, float] = {}

    def look() -> bool:
        asked = time.monotonic() - begin
        problems = _problems()
        for word in words:
            if word in problems:
                told.setdefault(word, round(asked, 2))
        return len(told) == len(words)

    wait.until(look, f"the report of {words}", deadline=deadline, interval=0.1)
    return told


def work(mode: str, more: int = 20) -> None:
    """Let the guests do this, and wait until each is well into it."""
    tell(mode)
    if mode != "idle":
        go_on(more)


def _synchronising() -> bool:
    actions = [path.read_text().strip() for path in Path("/sys/block").glob("md*/md/sync_action")]
    return not set(actions) <= {"idle", "frozen"}


def whole(deadline: float = 170.0) -> None:
    """Wait until there is no problem and no array is being synchronised."""
    try:
        wait.until(
            lambda: not _synchronising() and _problems() == "",
            "redundancy to be back",
            deadline=deadline,
            interval=0.25,
        )
    except Exception as error:
        error.add_note(_problems())
        raise
    found = volumes.store().health().cache
    assert found is not None
    assert found.attached
    assert found.settings_ok


def back(numbers: list[int]) -> None:
    """Drives work again: everything becomes whole by itself."""
    for number in numbers:
        disks.heal(number)
    whole()


def await_warm() -> int:
    """With guests idle and a new drive: wait until the appliance has filled the cache.

    Returns the bytes that one more clone then reads of the backend.
    """
    size = MIB_EACH * MIB
    wait.until(lambda: rules.cache_writes() >= size, "the cache to be filled", deadline=100)
    service.clones("fresh", "debian")
    read = volumes.backend_reads()
    service.read_back("nbd+unix:///fresh?socket=/run/hatchery/nbd/local/nbd.sock")
    return volumes.backend_reads() - read
