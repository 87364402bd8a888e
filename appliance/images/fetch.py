"""Fetching from a URL by a process that can reach the network and nothing else.

What a server sends is read by many lines of code, TLS and HTTP, before the first byte of the file. So it is done
without hatcheryd's rights, and hatcheryd has no network. The process gets a line of JSON on its standard input, the URL
and how it is asked for (``sources.Manner``), and answers on its standard output: a line of JSON, ``{"size": BYTES or
null, "begins": BYTES, "mark": TEXT}`` or ``{"error": {"code", "what", "why", "hint"}}``, and then the bytes as they
are. Its exit status says whether they came whole.
"""

import contextlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import IO, Protocol

from appliance.errors import BadImage, HatcheryError, InvalidInput, NotFound, NotReady, Refused
from appliance.images import sandbox
from appliance.images.piped import Piped
from appliance.images.sources import CHUNK, PLAIN, Manner, Opener, WebSource, check_url, open_url
from appliance.redact import redact, shown_url
from appliance.run import Runner

UNIT_PREFIX = "hatchery-fetch@"
"""Units that fetch are named after it and a number of their own."""

MEMORY_MAX = "512M"
TIME_MAX = 24 * 3600
"""What it may use; more ends it. Bytes and seconds."""

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
"""Variables of its caller's environment that it gets too, in small or capital letters."""

_HEADER_MAX = 64 * 1024
_ERRORS: dict[str, type[HatcheryError]] = {error.code: error for error in (InvalidInput, NotFound, NotReady, Refused)}


class Transfer(Protocol):
    """A process that fetches."""

    def read(self, count: int) -> bytes:
        """The next bytes that it wrote, ``count`` unless they end before. Waits for them."""

    def readline(self, count: int) -> bytes:
        """The next line, at most ``count`` bytes of it."""

    def end(self) -> str:
        """Wait for its end; why it failed, or nothing. Raises DeadlineExceeded."""

    def stop(self) -> None:
        """End it. A reader in another thread gets what there is, and then the end."""


class FetchedSource:
    """An http or https URL, fetched by another process. See ``sources.WebSource``."""

    def __init__(self, url: str, begin: Callable[[str], Transfer]) -> None:
        """Raises InvalidInput. ``begin`` starts to fetch; it is called when the size is asked for."""
        self._url = check_url(url)
        self._shown = shown_url(url)
        self._begin = begin
        self._transfer: Transfer | None = None
        self._size: int | None = None
        self._begins = 0
        self._mark = ""

    def size(self) -> int | None:
        """See Source. Begins to fetch."""
        self._open()
        return self._size

    def begins(self) -> int:
        """See WebSource. Begins to fetch."""
        self._open()
        return self._begins

    def mark(self) -> str:
        """See WebSource. Begins to fetch."""
        self._open()
        return self._mark

    def chunks(self) -> Iterator[bytes]:
        """See Source."""
        transfer = self._open()
        while chunk := transfer.read(CHUNK):
            yield chunk
        if why := transfer.end():
            raise BadImage(f"{self._shown} broke off", why=redact(why), hint="try again")

    def close(self) -> None:
        """See Source."""
        if self._transfer is not None:
            self._transfer.stop()

    def _open(self) -> Transfer:
        if self._transfer is None:
            self._transfer = self._begin(self._url)
            line = self._transfer.readline(_HEADER_MAX)
            try:
                answer = json.loads(line)
                said = answer.get("error")
                self._size = answer.get("size")
                self._begins = answer.get("begins", 0)
                self._mark = answer.get("mark", "")
            except (ValueError, AttributeError):
                why = self._transfer.end() or "its fetching said nothing"
                hint = f"see `journalctl -u '{UNIT_PREFIX}*'` on the appliance, and try again"
                raise NotReady(f"{self._shown} cannot be fetched", why=redact(why), hint=hint) from None
            if said is not None:
                raise _ERRORS.get(said["code"], NotReady)(said["what"], why=said["why"], hint=said["hint"])
        return self._transfer


def command(unit: str, *, bound_to: str | None = "hatcheryd.service", seconds: float = TIME_MAX) -> tuple[str, ...]:
    """What fetches in a unit of its own, for so many seconds at most."""
    settings = (
        "PrivateDevices=yes",
        # Names are asked for at systemd-resolved's socket and by netlink.
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        f"MemoryMax={MEMORY_MAX}",
        f"RuntimeMaxSec={seconds:.0f}",
        *(
            f"Environment={name}={os.environ[name]}"
            for small in PROXIES
            for name in (small, small.upper())
            if name in os.environ
        ),
    )
    return sandbox.unit(unit, settings, (sys.executable, "-m", "appliance.images.fetch"), bound_to)


class _Unit:
    """A transfer by a transient unit of systemd."""

    def __init__(self, runner: Runner, order: str, bound_to: str | None, seconds: float) -> None:
        unit = f"{UNIT_PREFIX}{secrets.token_hex(4)}.service"
        self._process = Piped(runner, command(unit, bound_to=bound_to, seconds=seconds), unit)
        # If it did not start, its end says so.
        with contextlib.suppress(BrokenPipeError), self._process.input as stdin:
            stdin.write(f"{order}\n".encode())

    def read(self, count: int) -> bytes:
        """See Transfer."""
        return self._process.output.read(count)

    def readline(self, count: int) -> bytes:
        """See Transfer."""
        return self._process.output.readline(count)

    def end(self) -> str:
        """See Transfer."""
        return self._process.end()

    def stop(self) -> None:
        """See Transfer."""
        self._process.stop()


def confined(runner: Runner, *, bound_to: str | None = "hatcheryd.service", seconds: float = TIME_MAX) -> Opener:
    """What opens URLs by units of systemd, each for so many seconds at most; they end with the service."""

    def open_url(url: str, manner: Manner = PLAIN) -> WebSource:
        return FetchedSource(url, lambda wanted: _Unit(runner, order(wanted, manner), bound_to, seconds))

    return open_url


def order(url: str, manner: Manner) -> str:
    """The line that says what is to be fetched."""
    return json.dumps({"url": url, **asdict(manner)})


def parse_order(line: str) -> tuple[str, Manner]:
    """What such a line says. Raises ValueError, KeyError, TypeError: only a caller of ours writes them."""
    values = json.loads(line)
    return values.pop("url"), Manner(**values)


def serve(line: str, output: IO[bytes], open_url: Opener = open_url) -> None:
    """Fetch, and write what is above. Raises HatcheryError when it breaks off after the first line."""
    url, manner = parse_order(line)
    source: WebSource | None = None
    try:
        source = open_url(url, manner)
        answer: dict[str, object] = {"size": source.size(), "begins": source.begins(), "mark": source.mark()}
    except HatcheryError as error:
        words = {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
        output.write(json.dumps({"error": words}).encode() + b"\n")
        output.flush()
        if source is not None:
            source.close()
        return
    output.write(json.dumps(answer).encode() + b"\n")
    output.flush()
    try:
        for chunk in source.chunks():
            output.write(chunk)
        output.flush()
    finally:
        source.close()


def main() -> None:
    """Entry point of the process."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        serve(sys.stdin.readline(), sys.stdout.buffer)
    except HatcheryError as error:
        raise SystemExit(error.why or str(error)) from None


if __name__ == "__main__":
    main()
