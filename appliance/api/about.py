"""What a request is about, for the log: all that is logged while it is served says which clone or template it was."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from appliance import journal
from appliance.schema import API_PREFIX

_PATH = re.compile(rf"{re.escape(API_PREFIX)}/(clone|template|client|operation)s/([^/]+)")


def fields(path: str) -> dict[str, str]:
    """What a path names. Pure."""
    found = _PATH.match(path)
    return {} if found is None else {found[1]: found[2]}


class About:
    """The application with that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        named = fields(scope["path"]) if scope["type"] == "http" else {}
        with journal.about(**named):
            await self._app(scope, receive, send)
