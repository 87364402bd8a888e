"""What it costs to look at an appliance with few and with many clones, most of them exported. Times in seconds."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from appliance import wait
from appliance.catalog import Catalog
from appliance.client import Client, connect
from appliance.config import Paths
from appliance.host.storage_daemon import Files
from appliance.run import Runner
from appliance.schema import API_PREFIX, LOCAL_CLIENT, CloneCreate
from tests.kernel.inside.bench_clones import TEMPLATE, Figures, daemon, note, resident

PUBLIC = "127.0.0.1:9750"
URL = f"http://{PUBLIC}"

READY = 600.0
"""Seconds until hatcheryd has brought up all that is exported."""

PING = 0.01
"""Seconds between two requests that ask whether somebody else has to wait."""


def everything(steps: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """For each step, in turn: so many clones are there, so many of them exported, and each is looked at so often."""
    found: dict[str, Figures] = {}
    for present, exported, times in steps:
        reach(present, exported)
        print(f"looking at {present} clones", flush=True)
        with daemon(READY) as process, public(), connect() as api, httpx.Client(base_url=URL, timeout=120) as web:
            look(api, web)  # what is imported and compiled at the first time is not counted
            for _ in range(times):
                figures = {**look(api, web), **pauses(web), "rss": resident(process.pid)}
                print(", ".join(f"{kind} {value:.3g}" for kind, value in figures.items()), flush=True)
                note(found, present, figures)
    return found


@contextmanager
def public() -> Iterator[None]:
    """``hatchery-status``, until it answers and to its end."""

    def answers() -> bool:
        try:
            return httpx.get(f"{URL}/health", timeout=60).status_code in (200, 503)
        except httpx.TransportError:
            return False

    with Runner().start(["hatchery-status", "--listen", PUBLIC]):
        wait.until(answers, "hatchery-status", deadline=120)
        yield


def reach(present: int, exported: int) -> None:
    """Make clones until ``present`` are there, and have ``exported`` of them when hatcheryd starts next.

    To export a thousand one by one takes a quarter of an hour here. So they are attached in the catalog alone, while
    nothing runs, and brought up as after the machine's start: one storage daemon that begins with all its exports.
    """
    with daemon(READY), connect() as api:
        count = present - len(api.clones())
        print(f"making {count} clones", flush=True)
        api.create_clones(CloneCreate(name=f"seen{present}", template=TEMPLATE, count=count, client=None, learn=False))
    end_daemon()
    print(f"exporting {exported} clones", flush=True)
    catalog = Catalog(Paths().catalog)
    try:
        first = sorted(clone.thin_id for clone in catalog.clones())[:exported]
        catalog.set_clone_clients(dict.fromkeys(first, LOCAL_CLIENT))
    finally:
        catalog.close()


def end_daemon() -> None:
    """Stop the local client's storage daemon, which outlives hatcheryd."""
    file = Files(Paths().nbd(LOCAL_CLIENT)).pid
    process = os.pidfd_open(int(file.read_text(encoding="ascii")))
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], 60)[0]:
            raise RuntimeError("the storage daemon does not end")
    finally:
        os.close(process)


def look(api: Client, web: httpx.Client) -> dict[str, float]:
    """One look by each means."""
    return {
        "status_command": took(lambda: Runner().run(["hatchery", "status"])),
        "status": took(api.status),
        "page": took(lambda: web.get("/").raise_for_status()),
        "scrape": took(lambda: web.get("/metrics").raise_for_status()),
    }


def took(work: Callable[[], object]) -> float:
    """How long something takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def pauses(web: httpx.Client) -> dict[str, float]:
    """The longest wait of a small request while nothing else is asked, and while the metrics are scraped.

    The machine has one processor, and who scrapes takes turns on it with the daemon and with who asks here: a wait has
    that in it, too.
    """
    idle = waits(lambda: time.sleep(1.0))
    scraping = waits(lambda: web.get("/metrics").raise_for_status())
    return {"idle_wait": max(idle), "scrape_wait": max(scraping)}


def waits(work: Callable[[], object]) -> list[float]:
    """How long each of the small requests took that were sent one after the other while ``work`` was done."""
    begun, ended = threading.Event(), threading.Event()
    found: list[float] = []

    def ask() -> None:
        transport = httpx.HTTPTransport(uds=str(Paths().api_socket))
        with httpx.Client(transport=transport, base_url=f"http://hatchery{API_PREFIX}", timeout=60) as client:
            client.get("/operations/none")
            while not ended.wait(PING):
                found.append(took(lambda: client.get("/operations/none")))
                begun.set()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        if not begun.wait(60):
            raise TimeoutError("the small requests did not begin")
        work()
    finally:
        ended.set()
        asking.join()
    return found
