"""A guest that writes stamps to its clone and flushes each: what was acknowledged to it must read back after a crash.

How far it came is told to the host after each flush, in a file of the shared folder, so that it outlives the machine.
A request is answered before the next is sent: at a cut one write at most is under way.
"""

import hashlib
import json
import os
import threading
from pathlib import Path

from appliance.model import KIB
from tests.kernel.inside.agent import write_whole
from tests.kernel.inside.nbd_client import NbdClient

BLOCK = 4 * KIB
SPREAD = 37
"""Stamps go to every so many-eth block, in turn: neighbours in time are not neighbours on the disk."""

_SHARED = Path("/lab")


class Writer:
    """The stamps of one clone, of ``size`` bytes, and what the host knows of them."""

    def __init__(self, clone: str, size: int) -> None:
        self.clone = clone
        self.blocks = size // BLOCK
        self._acked = _SHARED / f"{clone}.acked"
        self._ledger = _SHARED / f"{clone}.ledger"
        self._failed = _SHARED / f"{clone}.failed"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"guest of {clone}", daemon=True)

    def begin(self) -> None:
        """Write until ``end``, or until the power goes."""
        self._thread.start()

    def end(self) -> None:
        """Stop writing. Raises AssertionError when the guest saw an error."""
        self._stop.set()
        self._thread.join()
        self._no_errors()

    def check(self, original: bytes) -> int:
        """Compare all blocks with what may be there, and begin a new page of the ledger; returns the stamps so far.

        ``original`` is the content of the clone before the first stamp. Raises AssertionError.
        """
        self._no_errors()
        start, base = self._read_ledger()
        acked = self._read_acked(start)
        last = dict(base)
        for number in range(start, acked + 1):
            last[self._block(number)] = number
        wrong, now = [], {}
        with NbdClient(self.clone) as client:
            for block in range(self.blocks):
                found = client.read(block * BLOCK, BLOCK)
                allowed = [last.get(block, 0)]
                if self._block(acked + 1) == block:
                    allowed.append(acked + 1)
                match = [number for number in allowed if found == self._content(number, block, original)]
                if match:
                    now[block] = match[0]
                else:
                    wrong.append(f"block {block} has {found[:40]!r} instead of stamp {allowed}")
        assert not wrong, f"{self.clone}, {acked} acknowledged: " + "; ".join(wrong[:5])
        # The one under way may have come through or not, so the next has a number of its own.
        page = {"start": acked + 2, "base": {str(block): number for block, number in now.items() if number}}
        write_whole(self._ledger, json.dumps(page))
        return acked

    def _work(self) -> None:
        start, _ = self._read_ledger()
        number = self._read_acked(start) + 1
        try:
            with NbdClient(self.clone) as client:
                while not self._stop.is_set():
                    client.write(self._block(number) * BLOCK, self._content(number, 0, b""))
                    client.flush()
                    self._write_acked(number)
                    number += 1
        except OSError as error:
            self._failed.write_text(f"stamp {number}: {error}", encoding="utf-8")

    def _no_errors(self) -> None:
        assert not self._failed.exists(), f"the guest of {self.clone} saw an error: {self._failed.read_text()}"

    def _block(self, number: int) -> int:
        return number * SPREAD % self.blocks

    def _content(self, number: int, block: int, original: bytes) -> bytes:
        if number == 0:
            return original[block * BLOCK : (block + 1) * BLOCK].ljust(BLOCK, b"\0")
        words = f"{self.clone} stamp {number} ".encode()
        return words + (hashlib.sha256(words).digest() * (BLOCK // 32))[len(words) :]

    def _read_ledger(self) -> tuple[int, dict[int, int]]:
        if not self._ledger.exists():
            return 1, {}
        page = json.loads(self._ledger.read_text(encoding="utf-8"))
        return page["start"], {int(block): number for block, number in page["base"].items()}

    def _write_acked(self, number: int) -> None:
        # Written over in place, at one length, so that no cut leaves half of it; closing hands it to the host.
        fd = os.open(self._acked, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(fd, f"{number:012}".encode(), 0)
        finally:
            os.close(fd)

    def _read_acked(self, start: int) -> int:
        try:
            return max(int(self._acked.read_text(encoding="ascii") or 0), start - 1)
        except FileNotFoundError:
            return start - 1
