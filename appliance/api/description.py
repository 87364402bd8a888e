"""What the API says of itself at ``/v1/openapi.json``: its routes, and its errors as they really are.

``docs/openapi.json`` is this document, written by ``script/reference``; a test compares the two.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from appliance.api import problems
from appliance.schema import PROBLEM_TYPE, Event, ProblemDetails

_SCHEMAS = "#/components/schemas/"

SUMMARY = "Templates, clones and clients of a storage appliance."

FAILS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "It failed: what, why, and what to do",
        "content": {PROBLEM_TYPE: {"schema": {"$ref": f"{_SCHEMAS}{ProblemDetails.__name__}"}}},
    }
}
"""The response that every route has besides its own: FastAPI would describe errors that this API does not send."""


STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events, without an end if they are followed",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "description": "One of them",
                    "required": ["id", "event", "data"],
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string", "description": "The event's kind"},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": {"$ref": f"{_SCHEMAS}{Event.__name__}"},
                        },
                    },
                }
            }
        },
    }
}
"""The response of a stream of events. OpenAPI 3.2 has a word for its items; until then tools take this for each one."""


def body(media_type: str) -> dict[str, Any]:
    """The description of a request's body that is read as it comes, piece by piece."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


class Described(FastAPI):
    """An application whose description has the problems in it."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            made = get_openapi(title=self.title, version=self.version, summary=SUMMARY, routes=self.routes)
            schemas = made.setdefault("components", {}).setdefault("schemas", {})
            schemas[ProblemDetails.__name__] = _problem()
            # What is in a stream is no body, so that the framework does not see it.
            schemas[Event.__name__] = Event.model_json_schema(ref_template=_SCHEMAS + "{model}")
            self.openapi_schema = made
        return self.openapi_schema


def _problem() -> dict[str, Any]:
    described = ProblemDetails.model_json_schema(ref_template=_SCHEMAS + "{model}")
    described["properties"]["type"] |= {
        "enum": list(problems.TYPES),
        "description": "Stable; there may be more in a later release: take one that is not known for `error`",
    }
    return described
