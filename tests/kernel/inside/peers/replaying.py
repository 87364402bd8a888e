"""A recorded boot, replayed over NBD by one client or by many at once."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.kernel.inside.nbd_client import NbdClient

Reads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Boot:
    seconds: tuple[float, ...]
    bytes: int


def load(trace: Path) -> Reads:
    lines = trace.read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return tuple((int(word[0]), int(word[1])) for word in words)


def boot(uris: list[str], reads: Reads) -> Boot:
    def one(uri: str) -> float:
        parts = urlsplit(uri)
        with NbdClient(parts.path[1:], Path(parse_qs(parts.query)["socket"][0])) as client:
            begin = time.perf_counter()
            for offset, length in reads:
                client.read(offset, length)
            return time.perf_counter() - begin

    with ThreadPoolExecutor(len(uris)) as pool:
        took = tuple(pool.map(one, uris))
    return Boot(took, sum(length for _, length in reads) * len(uris))
