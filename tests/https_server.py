"""A web server with a certificate of a test's own authority, that can break off, forget how to resume, and send on."""

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from appliance import pki

ADDRESS = "127.0.0.1"


@dataclass
class Site:
    """What is served. ``url`` ends with a slash; ``authority`` is in PEM.

    ``breaks``: of a file, how many bytes each of the next answers has until the connection ends; the last holds for all
    after it. ``sends_on``: of a file, the URL that has it.
    """

    url: str
    authority: str
    files: dict[str, bytes]
    breaks: dict[str, list[int]] = field(default_factory=dict)
    sends_on: dict[str, str] = field(default_factory=dict)
    resumes: bool = True
    tells_size: bool = True
    forbidden: bool = False
    """Nobody gets anything."""
    asked: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    """The header by which those who asked logged in."""

    def next_break(self, name: str) -> int | None:
        """How many bytes the next answer has."""
        left = self.breaks.get(name)
        if not left:
            return None
        return left.pop(0) if len(left) > 1 else left[0]


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        site, name = self.site, self.path.partition("?")[0].rpartition("/")[2]
        site.logins += self.headers.get_all("Authorization", [])
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        site.asked.append(f"{self.command} {name}" + (f" {begin}" if begin else ""))
        if site.forbidden:
            self.send_error(403)
            return
        if name in site.sends_on:
            self.send_response(302)
            self.send_header("Location", site.sends_on[name])
            self.end_headers()
            return
        if name not in site.files:
            # As some servers do, it repeats what was asked for.
            self.send_error(404, f"no {self.path} here")
            return
        content = site.files[name]
        if begin and site.resumes:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            content = content[begin:]
        else:
            self.send_response(200)
        if site.tells_size:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: site.next_break(name)])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Nobody reads it."""


@contextmanager
def serve(
    folder: Path, files: Mapping[str, bytes], *, encrypted: bool = True, certified: str = ADDRESS
) -> Iterator[Site]:
    """Serve files; ``folder`` is for the certificate, which is of this address."""
    authority = pki.new_authority(time.time())
    site = Site("", authority.certificate, dict(files))
    handler: Any = type("Handler", (_Handler,), {"site": site})
    with ThreadingHTTPServer((ADDRESS, 0), handler) as server:
        if encrypted:
            server.socket = _context(folder, authority, certified).wrap_socket(server.socket, server_side=True)
        site.url = f"{'https' if encrypted else 'http'}://{ADDRESS}:{server.server_port}/bundle/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def _context(folder: Path, authority: pki.Authority, address: str) -> ssl.SSLContext:
    made = pki.server(authority, "localhost", [address], time.time())
    (folder / "certificate.pem").write_text(made.certificate)
    (folder / "key.pem").write_text(made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context
