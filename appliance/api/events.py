"""Events as a stream (server-sent events; WHATWG HTML, section 9.2)."""

import asyncio
import contextlib
import logging
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response, status
from starlette.types import Receive, Scope, Send

from appliance.api import description, problems
from appliance.errors import InUse
from appliance.schema import HEARTBEAT, Event
from appliance.service.events import Events, Reader
from appliance.service.service import Service

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a reader may take nothing of what was sent to him."""

RETRY_MS = 2000
"""After how long a browser connects again."""


class Stream(Response):
    """The events, from a place on: what is remembered, and then as they come."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, after: str | None, *, follow: bool, heartbeat: float = HEARTBEAT) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["Content-Length"]
        self._events = events
        self._after = after
        self._follow = follow
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them until the reader goes, or is too slow, or the service ends."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the reader with it
                loop.call_soon_threadsafe(woken.set)

        try:
            reader = self._events.join(wake, self._after)
        except InUse as error:
            number = problems.status_of(error.code)
            await problems.answer(error.code, error.what, error.why, error.hint, number)(scope, receive, send)
            return
        gone = asyncio.create_task(_gone(receive))
        try:
            await self._send(reader, woken, gone, send)
        except TimeoutError:
            log.warning("a reader of events takes nothing: he is cut off")
        finally:
            reader.leave()
            gone.cancel()

    async def _send(self, reader: Reader, woken: asyncio.Event, gone: "asyncio.Task[None]", send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _body(send, f"retry: {RETRY_MS}\n\n")
        while not gone.done():
            woken.clear()
            found = reader.take()
            if found:
                await _body(send, "".join(map(_frame, found)))
            if reader.ended or self._events.closed or (not found and not self._follow):
                break
            if not found:
                waiting = asyncio.create_task(woken.wait())
                await asyncio.wait((waiting, gone), timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                    # A line that is no event: who listens sees that it lives, and who is gone is found out.
                    await _body(send, ": nothing new\n\n")
        await _body(send, "", more=False)


async def _body(send: Send, text: str, *, more: bool = True) -> None:
    await asyncio.wait_for(send({"type": "http.response.body", "body": text.encode(), "more_body": more}), PATIENCE)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _frame(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"


def routes(service: Service) -> APIRouter:
    """The stream of events."""
    router = APIRouter(tags=["appliance"])

    @router.get("/events", response_class=Stream, status_code=status.HTTP_200_OK, responses=description.STREAM)
    async def events(
        last_event_id: Annotated[str | None, Header(description="Go on after this event")] = None,
        follow: Annotated[bool, Query(description="Go on with what comes, without an end")] = True,
    ) -> Stream:
        """What changes, as it changes: first what is remembered. Each `data` is an Event."""
        return Stream(service.events, last_event_id, follow=follow)

    return router
