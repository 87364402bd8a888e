"""What it costs to look at an appliance with few and with many clones, all of them exported. Times in seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from appliance import wait
from appliance.client import Client, connect
from appliance.config import Paths
from appliance.run import Runner
from appliance.schema import API_PREFIX, CloneCreate
from tests.kernel.inside.bench_clones import FEW, MANY, TEMPLATE, Figures, daemon, note, resident

PUBLIC = "127.0.0.1:9750"
BATCH = 100
"""Clones that are made and exported in one request."""

PING = 0.01
"""Seconds between two requests that ask whether somebody else has to wait."""


def everything(runs: int, many: int = MANY) -> dict[str, Any]:
    """Few, many, and few again, so that a drift shows on both sides; each is looked at ``runs`` times."""
    found: dict[str, Figures] = {}
    half = -(-runs // 2)
    with daemon() as process, public(), connect() as api, httpx.Client(base_url=f"http://{PUBLIC}", timeout=120) as web:
        for present, times in ((FEW, half), (many, 2 * half), (FEW, half)):
            reach(api, present)
            print(f"looking at {present} clones", flush=True)
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
            return httpx.get(f"http://{PUBLIC}/health", timeout=60).status_code in (200, 503)
        except httpx.TransportError:
            return False

    with Runner().start(["hatchery-status", "--listen", PUBLIC]):
        wait.until(answers, "hatchery-status", deadline=120)
        yield


def reach(api: Client, present: int) -> None:
    """Make or remove exported clones until ``present`` are there."""
    names = sorted(clone.name for clone in api.clones())
    print(f"from {len(names)} clones to {present}", flush=True)
    while len(names) < present:
        count = min(BATCH, present - len(names))
        wanted = CloneCreate(name=f"seen{len(names)}", template=TEMPLATE, count=count)
        names += [clone.name for clone in api.create_clones(wanted)]
    for name in names[present:]:
        api.remove_clone(name, force=True)


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
    ended = threading.Event()
    found: list[float] = []

    def ask() -> None:
        transport = httpx.HTTPTransport(uds=str(Paths().api_socket))
        with httpx.Client(transport=transport, base_url=f"http://hatchery{API_PREFIX}", timeout=60) as client:
            client.get("/operations/none")
            while not ended.wait(PING):
                found.append(took(lambda: client.get("/operations/none")))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        time.sleep(2 * PING)
        work()
    finally:
        ended.set()
        asking.join()
    return found or [0.0]
