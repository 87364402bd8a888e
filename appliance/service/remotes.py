"""Disks of other NBD servers as block devices here: what a template is fetched from.

    the server, over TCP, with TLS or without
    hatchery-nbd@hatchery-source-ID   a storage daemon that passes it on, read-only, on a unix socket here: it has the
                                      network and the certificate, and comes back to a server that went away
    /dev/nbdN                         the kernel's NBD client on that socket

Who reads waits ``PATIENCE`` seconds for a server that went away, then gets an error: a pool holds back what is trimmed
while a read is under way, so nobody may wait for ever. Both parts go on without hatcheryd. A daemon that ended is begun
again, gets its export anew, and the kernel its connection: by a thread here.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from appliance.attach import small
from appliance.attach.connection import connections
from appliance.attach.target import PORT, Target
from appliance.bootset import file
from appliance.catalog import Identity
from appliance.config import Paths
from appliance.errors import (
    CannotTell,
    DeadlineExceeded,
    HatcheryError,
    InvalidInput,
    NotFound,
    NotReady,
    Refused,
    Unhealthy,
)
from appliance.host import block, storage_daemon
from appliance.host.files import replace
from appliance.host.storage_daemon import CLIENT_CREDENTIALS, Files, Listen, Passed, Server, ServerConfig, StorageDaemon
from appliance.host.units import Units
from appliance.model import SECTOR
from appliance.redact import shown_url

log = logging.getLogger(__name__)

PREFIX = "hatchery-source-"
"""Names of the daemons, and how the kernel remembers its devices; no client may be named so."""

PATIENCE = 10
"""Seconds that a read waits for a server that went away."""

OPENING = 5
"""Seconds in which a server must be reached."""

BOOT_SET = ":boot-set"
"""Under the export's name with this, an appliance offers the boot set of a template that it offers."""

_LOCAL_PATIENCE = 15
"""Seconds that a read waits for the daemon here."""

_TIMER_MS, _KERNELS_TIMER_MS = 3_000, 30_000
"""See ``attach.attachment``: how long a request lies after its connection went and there is a new one."""

_LOOK_SECONDS = 2.0

HANGS_SECONDS = 30.0
"""A server that answered nothing for so long, while it was asked, is taken for gone: one that lost its power says no
goodbye, and TCP would wait for a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of another server that can be read here; ``fixed``: the server says that nobody writes to it by NBD."""

    device: Path
    size: int
    fixed: bool


class Remotes(Protocol):
    """What fetching needs of them. ``thin_id`` is the template's."""

    def tell(self, gone: Callable[[int], None]) -> None:
        """Call that when a disk cannot be read any more: its device is to be let go of, and the disk opened anew."""

    def open(self, thin_id: int, server: Server, identity: Identity | None) -> Disk:
        """Make it readable; fine when it is. Raises NotReady, Refused, Unhealthy."""

    def boot_set(self, thin_id: int, server: Server) -> str | None:
        """The boot set that comes with an open disk, as a file; None of none."""

    def close(self, thin_id: int) -> None:
        """Let go of it; fine when there is none. Raises HatcheryError."""

    def clear(self, keep: Collection[int]) -> None:
        """Let go of all but some, whoever made them."""

    def leave(self) -> None:
        """Look after them no more; they go on."""


def parse(uri: str) -> Server:
    """The server and export that a URI names. Raises InvalidInput."""
    hint = "give nbd://HOST[:PORT]/EXPORT, or nbds:// for TLS"
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        why = "its host and port cannot be read"
        raise InvalidInput(f"{shown_url(uri)!r} is no NBD URI", why=why, hint=hint) from None
    export = unquote(parts.path.removeprefix("/"))
    known = parts.scheme in ("nbd", "nbds") and parts.hostname and parts.username is None and port != 0
    if not known or parts.query or parts.fragment or not uri.isprintable():
        why = "it has a login, a query or a fragment, or no host"
        raise InvalidInput(f"{shown_url(uri)!r} is no NBD URI that can be fetched", why=why, hint=hint)
    return Server(str(parts.hostname), PORT if port is None else port, export, parts.scheme == "nbds")


@dataclass(slots=True)
class _Open:
    name: str
    server: Server
    index: int
    answered: int = 0
    since: float = 0.0
    """How many reads had ended at the last look at which that changed, or at which nobody waited; and when that was."""
    failing: float | None = None
    """Since when it has no connection, and does not get one."""


class NbdRemotes:
    """By a storage daemon and the kernel's client."""

    def __init__(self, units: Units, paths: Paths) -> None:
        self._units = units
        self._paths = paths
        self._lock = threading.RLock()
        self._open: dict[int, _Open] = {}
        self._left = threading.Event()
        self._watcher: threading.Thread | None = None
        self._gone: Callable[[int], None] = lambda _: None

    def tell(self, gone: Callable[[int], None]) -> None:
        """See Remotes."""
        self._gone = gone

    def open(self, thin_id: int, server: Server, identity: Identity | None) -> Disk:
        """See Remotes."""
        name = f"{PREFIX}{thin_id}"
        with self._lock:
            self._prepare(name, server, identity)
            self._units.start(name)
            export = _export(name, server)
            self._offer(name, export)
            fixed = self._daemon(name).read_only(export.far)
            index, size = self._connect(name, server)
            self._open[thin_id] = _Open(name, server, index, since=time.monotonic())
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="sources", daemon=True)
                self._watcher.start()
        return Disk(Path(f"/dev/nbd{index}"), size, fixed)

    def boot_set(self, thin_id: int, server: Server) -> str | None:
        """See Remotes."""
        name = f"{PREFIX}{thin_id}"
        there = Server(server.host, server.port, server.export + BOOT_SET, server.tls)
        export = Passed(f"{name}-boot-set", f"{name}-boot-set", Path(), writable=False, server=there)
        with self._lock:
            daemon = self._daemon(name)
            try:
                daemon.add([export])
                try:
                    data = small.read(Target(export.name, socket=self._files(name).socket), file.LARGEST)
                    # A file is offered in whole sectors.
                    return data.rstrip(b"\0").decode(errors="replace")
                finally:
                    daemon.cut_off(export)
            except (Unhealthy, Refused, NotFound) as error:
                log.info("no boot set comes with %s: %s", server, error)
            except (DeadlineExceeded, CannotTell, NotReady):
                # A server that takes one connection alone holds up the daemon: it begins anew, without that.
                log.info("no boot set comes with %s: it does not answer", server)
                self._units.restart(name)
                self._renew(thin_id)
        return None

    def close(self, thin_id: int) -> None:
        """See Remotes."""
        name = f"{PREFIX}{thin_id}"
        with self._lock:
            self._open.pop(thin_id, None)
            _disconnect({name})
            self._units.stop(name)
            shutil.rmtree(self._paths.nbd(name), ignore_errors=True)
            shutil.rmtree(self._paths.tls(name), ignore_errors=True)

    def clear(self, keep: Collection[int]) -> None:
        """See Remotes."""
        kept = {f"{PREFIX}{thin_id}" for thin_id in keep}
        folders = self._paths.nbd("x").parent.glob(f"{PREFIX}*")
        left = {folder.name.removeprefix(PREFIX) for folder in folders if folder.name not in kept}
        for number in left:
            if number.isdecimal():
                with contextlib.suppress(HatcheryError):
                    self.close(int(number))

    def leave(self) -> None:
        """See Remotes."""
        self._left.set()
        if self._watcher is not None:
            self._watcher.join(_LOOK_SECONDS + 10)

    # --- inside

    def _files(self, name: str) -> Files:
        return Files(self._paths.nbd(name))

    def _daemon(self, name: str) -> StorageDaemon:
        return StorageDaemon(self._files(name), "threads")

    def _prepare(self, name: str, server: Server, identity: Identity | None) -> None:
        files = self._files(name)
        files.folder.mkdir(parents=True, exist_ok=True)
        if server.tls:
            if identity is None:
                hint = "give the folder of its certificate: nbds://HOST/EXPORT?tls-certificates=FOLDER"
                raise InvalidInput(
                    f"{server} takes a certificate",
                    why="nbds:// is TLS, and such a server lets in whom it gave one",
                    hint=hint,
                )
            folder = self._paths.tls(name)
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            for each, content in zip(
                CLIENT_CREDENTIALS, (identity.authority, identity.certificate, identity.key), strict=True
            ):
                replace(folder / each, content, 0o600)
        # It begins without exports: a server that is away must not keep it from listening.
        config = ServerConfig(name, Listen(path=files.socket), (), asks=server.tls)
        replace(files.config, storage_daemon.render(config), 0o644)

    def _offer(self, name: str, export: Passed) -> None:
        try:
            self._daemon(name).add([export])
        except Unhealthy as error:
            raise NotReady(
                f"{export.server} cannot be read", why=error.why, hint="is it up, and the export's name right?"
            ) from error
        except (DeadlineExceeded, CannotTell) as error:
            self._units.restart(name)
            raise NotReady(f"{export.server} does not answer", why=str(error), hint="is it an NBD server?") from error

    def _connect(self, name: str, server: Server) -> tuple[int, int]:
        """Give the kernel a connection; the device's index, and its size."""
        # Loaded when it is asked for: few appliances fetch anything.
        from appliance.host import nbd

        target = Target(name, socket=self._files(name).socket)
        with connections(target, 1) as made, nbd.Kernel() as kernel:
            size, found = made.export.size, kernel.find(name)
            if size < SECTOR or size % SECTOR:
                raise Refused(
                    f"{server} is no disk",
                    why=f"it has {size} bytes, no multiple of {SECTOR}",
                    hint="name the export of a whole disk",
                )
            if found is None:
                index = kernel.connect(nbd.Wanted(name, size, made.export.flags, _LOCAL_PATIENCE), made.sockets)
                nbd.set_timer(index, _TIMER_MS)
                return index, size
            if found.size != size:
                raise Refused(
                    f"{server} is another disk now",
                    why=f"it has {size} bytes, and had {found.size}",
                    hint="remove the template, and import it anew",
                )
            kernel.reconfigure(found.index, name, size, made.sockets)
            return found.index, size

    def _watch(self) -> None:
        from appliance.host import nbd

        with contextlib.ExitStack() as opened:
            try:
                events = opened.enter_context(opened.enter_context(nbd.Kernel()).events())
            except HatcheryError:
                log.exception("sources of templates are not looked after")
                return
            while not self._left.is_set():
                dead = events.receive() if events.wait(_LOOK_SECONDS) else frozenset[int]()
                with self._lock:
                    for thin_id, source in list(self._open.items()):
                        if self._hangs(source):
                            log.warning("%s answers nothing any more", source.server)
                            self._drop(thin_id)
                        elif dead is None or source.index in dead or not self._serves(source):
                            self._renew(thin_id)

    def _serves(self, source: _Open) -> bool:
        try:
            return source.name in self._daemon(source.name).exports()
        except HatcheryError:
            return False

    @staticmethod
    def _hangs(source: _Open) -> bool:
        """Whether somebody waits for the server, and nobody has got an answer for a while; once, for each while."""
        device, now = block.by_name(f"nbd{source.index}"), time.monotonic()
        if device is None:
            return False
        try:
            answered = block.statistics(device).reads
        except CannotTell:
            return False
        if answered != source.answered or not block.inflight(device):
            source.answered, source.since = answered, now
        hangs = now - source.since > HANGS_SECONDS
        if hangs:
            source.since = now
        return hangs

    def _drop(self, thin_id: int) -> None:
        """Let those who wait have an error. The kernel keeps what a dead connection had under way until there is
        another one, so the device goes; and the daemon may be waiting for its server: another one asks anew.
        """
        source = self._open.pop(thin_id)
        try:
            _disconnect({source.name})
            self._units.kill(source.name)
            self._gone(thin_id)
        except HatcheryError as error:
            log.warning("the source of template volume %d: %s", thin_id, error)

    def _renew(self, thin_id: int) -> None:
        source = self._open[thin_id]
        try:
            self._units.start(source.name)
            self._offer(source.name, _export(source.name, source.server))
            self._connect(source.name, source.server)
        except HatcheryError as error:
            log.warning("the source of template volume %d: %s", thin_id, error)
            now = time.monotonic()
            source.failing = source.failing or now
            if now - source.failing > _LOCAL_PATIENCE:
                self._drop(thin_id)
        else:
            source.failing = None
            log.info("%s is asked again for template volume %d", source.server, thin_id)


def _export(name: str, server: Server) -> Passed:
    return Passed(name, name, Path(), writable=False, server=server, patience=PATIENCE, opening=OPENING)


def _disconnect(names: Collection[str]) -> None:
    from appliance.host import nbd

    try:
        kernel = nbd.Kernel()
    except NotReady:
        return  # without the module there are no devices
    with kernel:
        for device in kernel.devices():
            if device.identifier in names:
                kernel.disconnect(device.index)
                # Not before: the kernel waits for all that is under way before it changes it.
                with contextlib.suppress(Unhealthy):
                    nbd.set_timer(device.index, _KERNELS_TIMER_MS)
