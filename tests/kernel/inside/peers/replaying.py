"""A recorded boot, replayed over NBD by one client or by many at once."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from appliance.bootset.trace import Read
from tests.kernel.inside.nbd_client import NbdClient


@dataclass(frozen=True)
class Boot:
    seconds: tuple[float, ...]
    bytes: int


def boot(uris: list[str], reads: Sequence[Read]) -> Boot:
    def one(uri: str) -> float:
        parts = urlsplit(uri)
        with NbdClient(parts.path[1:], Path(parse_qs(parts.query)["socket"][0])) as client:
            begin = time.perf_counter()
            for read in reads:
                client.read(read.offset, read.length)
            return time.perf_counter() - begin

    with ThreadPoolExecutor(len(uris)) as pool:
        took = tuple(pool.map(one, uris))
    return Boot(took, sum(read.length for read in reads) * len(uris))
