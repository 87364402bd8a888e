"""The routes of what is public: metrics, the status page, and whether all is well for a load balancer or a probe.

Each request asks the API anew, so that nothing here can be older than its answer.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from appliance.client import Client
from appliance.errors import HatcheryError
from appliance.model import Health
from appliance.schema import Counters
from appliance.web import metrics, page
from appliance.web.metrics import MOST_LATENCIES, Answers
from appliance.web.totals import Totals

Connect = Callable[[], AbstractContextManager[Client]]

HEADERS = {
    # Nothing is loaded from anywhere else, nothing may frame it, and no browser keeps it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


FOLDER = Path(__file__).parent / "static"
STATIC = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "uplot.css": "text/css",
    "uplot.js": "text/javascript",
}
"""What there is beside the page. uPlot is a release as it is published: static/uplot.LICENSE."""


def make_app(connect: Connect) -> FastAPI:
    """The application; ``connect`` opens a connection to the API that may only read."""
    app = FastAPI(title="Hatchery status", openapi_url=None, docs_url=None, redoc_url=None)
    totals, one_scrape = Totals(), threading.Lock()

    @app.exception_handler(HatcheryError)
    def unanswered(_: Request, error: Exception) -> Response:
        """The API does not answer: say so, and why."""
        return PlainTextResponse(f"{error}\n", status_code=503, headers=HEADERS)

    @app.get("/")
    def show() -> HTMLResponse:
        """The status page."""
        with connect() as client:
            found = glance(client)
            maps = {each.ref: client.boot_set(each.ref) for each in found.templates if each.boot_set is not None}
        return HTMLResponse(page.render(found, maps), headers=HEADERS)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        """The page's script and style."""
        if name not in STATIC:
            return PlainTextResponse("there is no such file\n", status_code=404, headers=HEADERS)
        # The page is asked for anew each time, and these may be of another release after an update.
        return Response((FOLDER / name).read_bytes(), media_type=STATIC[name], headers=HEADERS)

    @app.get("/metrics")
    def show_metrics() -> Response:
        """All metrics, for Prometheus."""
        with one_scrape, connect() as client:
            found = gather(client, totals)
        return Response(metrics.text(found), media_type=CONTENT_TYPE_LATEST, headers=HEADERS)

    @app.get("/health")
    def health() -> PlainTextResponse:
        """One word; status 503 when something has failed."""
        with connect() as client:
            found = client.status().health
        return PlainTextResponse(f"{found}\n", status_code=503 if found is Health.FAILED else 200, headers=HEADERS)

    return app


def gather(client: Client, totals: Totals) -> Answers:
    """All that a scrape tells. A store whose counters cannot be read is told without. Raises NotReady.

    What a scrape costs may not grow with the number of clones: so many clones' latencies are asked for, and the next
    time those of others.
    """
    status, clones, templates = client.status(), client.clones(brief=True), client.templates()
    counters = _counters(client)
    some = client.latencies(totals.after, MOST_LATENCIES)
    every = not totals.after and some.next is None
    totals.know((each.ref for each in templates), (each.name for each in status.clients))
    if counters is not None:
        totals.take(clones, counters, some.clones)
    totals.after = some.next or ""
    by_template, by_client = totals.snapshot()
    latencies = some.clones if every else ()
    return Answers(status, counters, templates, clones, latencies, client.measurements(), by_template, by_client)


def glance(client: Client) -> Answers:
    """What the page shows, which takes the same with any number of clones. Raises NotReady."""
    status, counters = client.status(), _counters(client, clones=False)
    return Answers(status, counters, client.templates(), (), measurements=client.measurements())


def _counters(client: Client, *, clones: bool = True) -> Counters | None:
    try:
        return client.counters(clones=clones)
    except HatcheryError:
        return None  # the reason is among the status's problems
