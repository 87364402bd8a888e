"""Unpacking what is fetched, by a process that has nothing but its standard input and output (rule 16).

The bytes go through hatcheryd on their way there and back: it makes the checksum of them as they came, which a server
that takes over either process cannot change, and it goes on with a transfer that broke off, while the process waits.
"""

import contextlib
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, Protocol

from appliance.errors import BadImage
from appliance.images import sandbox
from appliance.images.piped import Piped
from appliance.images.sources import CHUNK, Source
from appliance.model import MIB, Compression
from appliance.run import Runner
from appliance.unpack import DAMAGES, UNPACK

UNIT_PREFIX = "hatchery-unpack@"
"""Units that unpack are named after it and a number of their own."""

MEMORY = 512 * MIB
"""Bytes that it may use; with more, it says so. xz of level 9 takes 65 MiB, and zstd may want a window of 128 MiB."""

TIME_MAX = 24 * 3600
"""Seconds after which it is ended, as a transfer is."""


class Unpacking(Protocol):
    """A process that unpacks: ``input`` takes what is packed, and its closing says that this is all."""

    input: IO[bytes]
    output: IO[bytes]

    def end(self) -> str:
        """Wait for its end; why it failed, or nothing. Raises DeadlineExceeded."""

    def stop(self) -> None:
        """End it. A reader in another thread gets what there is, and then the end."""


Unpacker = Callable[[Compression], Unpacking]
"""Starts one."""


class UnpackedSource:
    """The content of what another source gives. How much that will be, only its end tells. See ``sources.Source``."""

    def __init__(self, packed: Source, kind: Compression, begin: Unpacker) -> None:
        self._packed = packed
        self._kind = kind
        self._begin = begin
        self._process: Unpacking | None = None
        self._closed = threading.Event()
        self._broken: Exception | None = None

    def size(self) -> int | None:
        """See Source."""
        return None

    def chunks(self) -> Iterator[bytes]:
        """See Source. Raises BadImage when it cannot be unpacked, and what the other source raises."""
        process = self._process = self._begin(self._kind)
        feeding = threading.Thread(target=self._feed, args=(process,), name="unpack")
        feeding.start()
        try:
            while not self._closed.is_set() and (chunk := process.output.read(CHUNK)):
                yield chunk
            feeding.join()
            # That it broke off is the reason, and that it cannot be unpacked then follows from it.
            if self._broken is not None:
                raise self._broken
            if why := process.end():
                hint = "is it the right kind of compression, and whole?"
                raise BadImage(f"the image cannot be unpacked as {self._kind}", why=why, hint=hint)
        finally:
            self.close()
            feeding.join()

    def close(self) -> None:
        """See Source."""
        self._closed.set()
        self._packed.close()
        if self._process is not None:
            self._process.stop()

    def _feed(self, process: Unpacking) -> None:
        try:
            # To a process that has ended already: its end says why.
            with contextlib.suppress(BrokenPipeError), process.input as target:
                for chunk in self._packed.chunks():
                    target.write(chunk)
        except Exception as error:
            # Who reads raises it. Once closed, a source may fail as it likes: nobody reads.
            if not self._closed.is_set():
                self._broken = error


def command(unit: str, kind: Compression) -> tuple[str, ...]:
    """What unpacks in a unit of its own."""
    settings = (
        "PrivateDevices=yes",
        "PrivateNetwork=yes",
        "IPAddressDeny=any",
        # Not "none": systemd-run cannot say it. Without a network, a unix socket leads nowhere that it may see.
        "RestrictAddressFamilies=AF_UNIX",
        f"LimitAS={MEMORY}",
        f"MemoryMax={MEMORY}",
        f"RuntimeMaxSec={TIME_MAX}",
    )
    return sandbox.unit(unit, settings, _words(kind))


def confined(runner: Runner) -> Unpacker:
    """Unpacks by units of systemd, which end with the service."""

    def begin(kind: Compression) -> Unpacking:
        unit = f"{UNIT_PREFIX}{secrets.token_hex(4)}.service"
        return Piped(runner, command(unit, kind), unit)

    return begin


def plain(runner: Runner) -> Unpacker:
    """Unpacks by children that end with this process, where there is no service manager."""
    limits = ("prlimit", f"--as={MEMORY}", "setpriv", "--pdeathsig", "KILL")
    return lambda kind: Piped(runner, (*limits, *_words(kind)))


def _words(kind: Compression) -> tuple[str, ...]:
    return (sys.executable, "-m", "appliance.images.unpacking", kind)


def serve(kind: Compression, packed: IO[bytes], output: IO[bytes]) -> str:
    """Unpack all of it; why that cannot be done, or nothing."""
    try:
        content = UNPACK[kind](packed)
        while chunk := content.read(CHUNK):
            output.write(chunk)
        output.flush()
    except DAMAGES as error:
        return str(error) or type(error).__name__
    except MemoryError:
        return f"it takes more than {MEMORY // MIB} MiB of memory"
    while packed.read(CHUNK):  # what follows is not its content, and is part of the checksum
        continue
    return ""


def main() -> None:
    """Entry point of the process."""
    if why := serve(Compression(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer):
        raise SystemExit(why)


if __name__ == "__main__":
    main()
