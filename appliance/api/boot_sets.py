"""Routes of boot sets."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from appliance import schema
from appliance.api import description
from appliance.bootset import file
from appliance.errors import InvalidInput
from appliance.service.service import Service

Boot = Annotated[int, Query(ge=1, description="Which of the boots that are kept: 1 is the last one")]


def routes(service: Service) -> APIRouter:
    """What is asked of a template's boot set."""
    router = APIRouter(tags=["templates"])

    @router.get("/templates/{ref}/boot-set")
    def boot_set(ref: str) -> schema.BootSetView:
        """A template's boot set."""
        return service.boot_sets.show(ref)

    @router.get("/templates/{ref}/boot-set/file", response_class=PlainTextResponse)
    def export(ref: str) -> str:
        """A template's boot set as a file."""
        return service.boot_sets.export(ref)

    @router.get("/templates/{ref}/boot-set/trace", response_class=PlainTextResponse)
    def trace(ref: str, boot: Boot = 1) -> str:
        """A recorded boot of a template, as a trace."""
        return service.boot_trace(ref, boot)

    @router.put("/templates/{ref}/boot-set/file", openapi_extra=description.body("text/plain"))
    async def put(ref: str, request: Request) -> schema.BootSetView:
        """Give a template the boot set of a file."""
        return await run_in_threadpool(service.put_boot_set, ref, await _text(request))

    @router.delete("/templates/{ref}/boot-set")
    def forget(ref: str) -> schema.Removal:
        """Forget a template's boot set."""
        return service.boot_sets.remove(ref)

    return router


async def _text(request: Request) -> str:
    """A body of text. Raises InvalidInput when it is larger than a boot set may be, or no text."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > file.LARGEST:
            raise InvalidInput("the boot set is too large", why=f"at most {file.LARGEST} bytes are read")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("this is no boot set", why="it is not text") from error
