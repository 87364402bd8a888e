"""An image's bytes from a web server, by httpx."""

import re
import ssl
from collections.abc import Iterator

import httpx

from appliance.errors import BadImage, InvalidInput, NotFound, NotReady, Refused
from appliance.images.sources import PLAIN, Manner, check_url
from appliance.redact import redact, shown_url

_RANGE = re.compile(r"bytes ([0-9]{1,19})-.*")


class UrlSource:
    """An http or https URL. Certificates are checked; a compressed transfer is not asked for."""

    def __init__(
        self,
        url: str,
        manner: Manner = PLAIN,
        *,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``timeout`` is seconds without a byte; ``transport`` is for tests. Raises InvalidInput."""
        self._shown = shown_url(check_url(url))
        self._manner = manner
        self._client = httpx.Client(
            follow_redirects=True,
            timeout=timeout,
            transport=transport,
            verify=_believing(manner.authority),
            # Called for what the server sends on to, too.
            event_hooks={"request": [self._check_scheme]},
        )
        headers = {"Accept-Encoding": "identity"}
        if manner.begin:
            headers["Range"] = f"bytes={manner.begin}-"
            if manner.mark:
                headers["If-Range"] = manner.mark
        try:
            self._request = self._client.build_request("HEAD" if manner.look else "GET", url, headers=headers)
        except httpx.InvalidURL:
            # Its words may be a part of a password.
            why = "its host, its port or its length is none of a URL"
            raise InvalidInput(f"{self._shown!r} cannot be asked for", why=why, hint="give http://HOST/PATH") from None
        self._response: httpx.Response | None = None

    def size(self) -> int | None:
        """See Source. Sends the request."""
        length = self._open().headers.get("Content-Length", "")
        return int(length) if re.fullmatch("[0-9]{1,19}", length) else None

    def begins(self) -> int:
        """See WebSource. Sends the request."""
        return self._manner.begin if self._open().status_code == httpx.codes.PARTIAL_CONTENT else 0

    def mark(self) -> str:
        """See WebSource. Sends the request. A weak tag is none: it may stand for other bytes."""
        tag = self._open().headers.get("ETag", "")
        return tag if tag.startswith('"') and tag.isprintable() else ""

    def chunks(self) -> Iterator[bytes]:
        """See Source."""
        try:
            # As they come: what waits for a chunk to be full is lost when the connection breaks.
            yield from self._open().iter_raw()
        except httpx.HTTPError as error:
            raise BadImage(f"{self._shown} broke off", why=_words(error), hint="try again") from error

    def close(self) -> None:
        """See Source."""
        if self._response is not None:
            self._response.close()
        self._client.close()

    def _open(self) -> httpx.Response:
        if self._response is None:
            try:
                self._response = self._client.send(self._request, stream=True)
            except httpx.HTTPError as error:
                raise _unreached(self._shown, error) from error
            self._check_status(self._response)
        return self._response

    def _check_scheme(self, request: httpx.Request) -> None:
        if self._manner.encrypted and request.url.scheme != "https":
            raise Refused(
                f"{self._shown} is not fetched",
                why=f"{shown_url(str(request.url))} is not encrypted, and only https is wanted",
                hint="give an https URL of a server that does not send on to http",
            )

    def _check_status(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.OK:
            return
        if response.status_code == httpx.codes.PARTIAL_CONTENT and self._manner.begin:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is not None and int(found[1]) == self._manner.begin:
                return
        # What the server says to it are words of its own, and may be the URL.
        why = (
            f"the server answered {response.status_code} {httpx.codes.get_reason_phrase(response.status_code)}".strip()
        )
        if response.is_server_error:
            raise NotReady(f"{self._shown} cannot be fetched", why=why, hint="try again later")
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            hint = "it wants a login (https://USER:PASSWORD@HOST/PATH), or a signed URL that is still good"
        else:
            hint = "does the server still have it there? look with `curl -I`"
        raise NotFound(f"{self._shown} cannot be fetched", why=why, hint=hint)


def _believing(authority: str) -> ssl.SSLContext | bool:
    """How servers' certificates are checked. Raises InvalidInput for an authority that is no certificate."""
    if not authority:
        return True
    try:
        return ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            "the authority of the server's certificate cannot be read", why=str(error), hint="give it in PEM"
        ) from error


def _words(error: httpx.HTTPError) -> str:
    """Why that happened. A part of a URL that cannot be read may be a password."""
    if isinstance(error.__context__, httpx.InvalidURL):
        return "the server sends on to what is no URL"
    return redact(str(error)) or type(error).__name__


def _unreached(url: str, error: httpx.HTTPError) -> Refused | NotReady:
    """The error of a server that could not be asked; that its certificate is wrong will not pass by itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        hint = "is its host's name right, is the server up, and does the appliance's network lead there?"
        return NotReady(f"{url} cannot be fetched", why=_words(error), hint=hint)
    return Refused(
        f"{url} is not fetched",
        why=f"the server's certificate does not count: {cause.verify_message}",
        hint="is it the right server, is its certificate still good, and is its authority known here?",
    )
