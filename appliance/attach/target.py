"""What to attach: an NBD URI, read and written. Pure.

Source: the NBD project's doc/uri.md. The URI as it is written here is also how the kernel remembers what a device is.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from appliance.errors import InvalidInput, Refused

PORT = 10809
"""NBD's own port."""

_FORM = "nbd://HOST[:PORT]/CLONE or nbd+unix:///CLONE?socket=PATH, as `hatchery clone show` prints it"


@dataclass(frozen=True, slots=True)
class Target:
    """An export, at a TCP address or behind a unix socket."""

    export: str
    host: str = ""
    port: int = PORT
    socket: Path | None = None

    @property
    def identifier(self) -> str:
        """The URI in its one form: the port always named, the export's name quoted."""
        name = quote(self.export, safe="")
        if self.socket is not None:
            return f"nbd+unix:///{name}?socket={quote(str(self.socket))}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbd://{host}:{self.port}/{name}"

    @property
    def server(self) -> str:
        """Where the server is, for messages."""
        return str(self.socket) if self.socket is not None else f"{self.host} port {self.port}"


def no_tls(what: str) -> Refused:
    """The kernel cannot do what this server or URI wants: why, and what can."""
    return Refused(
        what,
        why="the kernel's NBD client has no TLS",
        hint="QEMU and libvirt attach it as `hatchery clone show` prints it; for a device on this host, put "
        "qemu-storage-daemon between, which speaks TLS there and plain NBD on a unix socket here: see docs/attach.md",
    )


def parse(text: str) -> Target:
    """The target that a URI names. Raises InvalidInput, Refused for TLS."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no NBD URI", why=str(error), hint=f"give {_FORM}") from error
    if parts.scheme in ("nbds", "nbds+unix"):
        raise no_tls(f"{text} is an address with TLS")
    export = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd":
        if parts.hostname and not parts.query and not parts.fragment and parts.username is None and port != 0:
            return Target(export, host=parts.hostname, port=PORT if port is None else port)
    elif parts.scheme == "nbd+unix" and not parts.netloc and not parts.fragment and parts.query.startswith("socket="):
        # Not by form rules, in which a plus sign is a blank.
        socket = Path(unquote(parts.query.removeprefix("socket=")))
        if socket.is_absolute() and "&" not in parts.query:
            return Target(export, socket=socket)
    raise InvalidInput(
        f"{text!r} is no NBD URI that can be attached",
        why="it has no server, or parts that say nothing here",
        hint=f"give {_FORM}",
    )
