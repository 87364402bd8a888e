"""How the API is spoken with: requests, the stream of events, and operations that are followed to their end."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from appliance import schema
from appliance.client.answers import not_running, operation_error, problem
from appliance.errors import CannotTell, DeadlineExceeded, NotReady
from appliance.wait import until

M = TypeVar("M", bound=BaseModel)
Progress = Callable[[schema.Operation], None]
"""Is told how far a long job is."""

TIMEOUT = httpx.Timeout(120.0, connect=10.0)
"""Seconds for one request; long jobs are operations and are polled."""

POLL = 0.3
"""Seconds between two looks at a running operation."""


def quiet(_: schema.Operation) -> None:
    """Progress that nobody looks at."""


class Requests:
    """One connection to an appliance's API. Not for use by two threads at once."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def events(self, after: str | None = None, *, follow: bool = True) -> Iterator[schema.Event]:
        """What changes: what is remembered, or what came ``after`` the event of that id, and then what comes.

        With ``follow`` it ends when the service ends, or after an event ``reset`` when the caller was too slow. Such an
        event may come first, too, when ``after`` is not remembered. Raises InUse when there are too many readers,
        NotReady when the connection breaks.
        """
        headers = {} if after is None else {"Last-Event-ID": after}
        patient = httpx.Timeout(10.0, read=3 * schema.HEARTBEAT)
        params = {"follow": "true" if follow else "false"}
        try:
            with self._http.stream("GET", "/events", params=params, headers=headers, timeout=patient) as response:
                if not response.is_success:
                    response.read()
                    raise problem(response)
                yield from map(_event, _data(response.iter_lines()))
        except httpx.ConnectError as error:
            raise not_running(str(error)) from error
        except httpx.TransportError as error:
            raise NotReady("the stream of events broke", why=str(error) or type(error).__name__) from error

    def operation(self, identity: str) -> schema.Operation:
        """How far a job is. Raises NotFound."""
        return self._get(f"/operations/{identity}", schema.Operation)

    def finish(self, operation: schema.Operation, *, deadline: float, progress: Progress = quiet) -> schema.Operation:
        """Follow a job to its end. Raises what it failed with; DeadlineExceeded (the job goes on)."""

        def ended() -> schema.Operation | None:
            state = self.operation(operation.id)
            progress(state)
            return None if state.state == "running" else state

        name = f"{operation.kind} of {operation.subject}"
        try:
            found = until(ended, name, deadline=deadline, interval=POLL)
        except DeadlineExceeded as error:
            if error.why:  # it is one answer that did not come
                raise
            raise DeadlineExceeded(
                f"the {name} takes longer than {deadline:g} s",
                why="the appliance goes on with it",
                hint=f"see how far it is: `hatchery operation follow {operation.id}`",
            ) from error
        if found.error is not None:
            raise operation_error(found.error)
        return found

    def _get(self, path: str, kind: type[M]) -> M:
        return self._send("GET", path, kind)

    def _send(
        self, method: str, path: str, kind: type[M], body: BaseModel | None = None, **words: bool | str | None
    ) -> M:
        """One request; those ``words`` that are true, or text, go into its query."""
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            response = self._http.request(
                method,
                path,
                content=body.model_dump_json().encode() if body else None,
                headers=headers,
                params={word: "true" if wanted is True else wanted for word, wanted in words.items() if wanted} or None,
            )
        except httpx.ConnectError as error:
            raise not_running(str(error)) from error
        except httpx.TimeoutException as error:
            hint = "see `hatchery status`, and `journalctl -u hatcheryd` there; what was asked for may still be done"
            what = f"the appliance did not answer {method} {path} in time"
            raise DeadlineExceeded(what, why="it is busy, or hangs", hint=hint) from error
        except httpx.TransportError as error:
            raise NotReady("the connection to the appliance broke", why=str(error)) from error
        if not response.is_success:
            raise problem(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise CannotTell(
                f"the appliance's answer to {method} {path} is not understood",
                why=str(error),
                hint="client and appliance are of different versions?",
            ) from error


def _data(lines: Iterable[str]) -> Iterator[str]:
    """The data in a stream of server-sent events: ours have one line of it each."""
    for line in lines:
        name, _, value = line.partition(":")
        if name == "data":
            yield value.removeprefix(" ")


def _event(text: str) -> schema.Event:
    try:
        return schema.Event.model_validate_json(text)
    except ValidationError as error:
        hint = "client and appliance are of different versions?"
        raise CannotTell("an event of the appliance is not understood", why=str(error), hint=hint) from error
