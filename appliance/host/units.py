"""Starting and stopping the storage daemons: by systemd, or as children where there is no service manager."""

import contextlib
import logging
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from appliance import wait
from appliance.config import Paths
from appliance.errors import CommandFailed, HatcheryError, NotReady, Unhealthy
from appliance.host.daemon_users import DaemonUsers
from appliance.host.storage_daemon import Files
from appliance.run import Runner

log = logging.getLogger(__name__)

RESTART_PAUSE = 0.2
"""Seconds between a daemon's end and its new start."""


class Units(Protocol):
    """What the service needs of a service manager. All verbs are idempotent."""

    def start(self, client: str) -> None:
        """Start a client's storage daemon; it listens when this returns. Raises NotReady when it does not come up."""

    def stop(self, client: str) -> None:
        """Stop it, cutting off who is connected; it is gone when this returns."""

    def restart(self, client: str) -> None:
        """Stop and start it. Raises NotReady."""

    def kill(self, client: str) -> None:
        """End it whatever it waits for; it is started again by itself. Fine when it does not run."""

    def describe(self, client: str) -> str:
        """Its state in words, for an operator."""

    def user(self, client: str) -> int:
        """The user that it runs as, and no other daemon does. Raises NoSpace."""

    def close(self) -> None:
        """Stop looking after the daemons; they go on."""


def booted_with_systemd() -> bool:
    """Whether systemd is the service manager (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def run_to_its_end(runner: Runner, unit: str, *, timeout: float) -> None:
    """Start a unit that does one thing, and wait until that is done; at most ``timeout`` seconds.

    Raises Unhealthy when it fails, DeadlineExceeded.
    """
    try:
        runner.run(["systemctl", "start", unit], timeout=timeout)
    except CommandFailed as error:
        raise Unhealthy(f"{unit} failed", why=error.why, hint=f"see `journalctl -u {unit}`") from error


_OF_THE_STORE = (
    *("hatcheryd.service", "hatchery-nbd@*.service", "hatchery-import@*.service", "hatchery-fetch@*.service"),
    "hatchery-unpack@*.service",
    *("hatchery-mend.service", "hatchery-scrub.service", "hatchery-backup.service", "hatchery-latencies.service"),
    *("hatchery-nvme.service", "hatchery-store.service", "hatchery-retry.service"),
)
"""What uses the store. The target, timers and sockets are not among them: they are there before there is a store."""


def of_the_store(runner: Runner) -> tuple[str, ...]:
    """The services that run and use the store. Raises CommandFailed."""
    words = ["systemctl", "list-units", "--plain", "--no-legend", "--full", "--state=active,activating,deactivating"]
    return parse_list_units(runner.run([*words, *_OF_THE_STORE]).stdout)


def parse_list_units(text: str) -> tuple[str, ...]:
    """The units' names in the output of ``systemctl list-units --plain --no-legend``."""
    return tuple(line.split()[0] for line in text.splitlines() if line.split())


def stop_all(runner: Runner, names: Sequence[str]) -> None:
    """Stop services; systemd knows in which order. Raises CommandFailed, DeadlineExceeded."""
    runner.run(["systemctl", "stop", *names], timeout=300)


class Systemd:
    """``hatchery-nbd@CLIENT.service``. Restarting one that was killed is systemd's work."""

    def __init__(self, runner: Runner, users: DaemonUsers | None = None) -> None:
        self._runner = runner
        self._users = users or DaemonUsers()
        self._read: set[str] = set()

    def start(self, client: str) -> None:
        """See Units."""
        self._verb("start", client)

    def stop(self, client: str) -> None:
        """See Units."""
        self._verb("stop", client)

    def restart(self, client: str) -> None:
        """See Units."""
        self._verb("restart", client)

    def kill(self, client: str) -> None:
        """See Units. The service manager does it: hatcheryd may not send signals to others."""
        self._runner.run(["systemctl", "kill", "--signal=KILL", unit_name(client)], check=False)

    def describe(self, client: str) -> str:
        """See Units."""
        unit = self._unit(client)
        shown = self._runner.run(["systemctl", "show", "--property=ActiveState,SubState,Result", unit], check=False)
        return describe_show(shown.stdout)

    def user(self, client: str) -> int:
        """See Units."""
        return self._users.of(client)

    def close(self) -> None:
        """See Units."""

    def _unit(self, client: str) -> str:
        """The unit, with its drop-in in place and read by systemd."""
        self._users.of(client)
        unit = unit_name(client)
        if client not in self._read:
            shown = self._runner.run(["systemctl", "show", "--property=NeedDaemonReload", "--value", unit], check=False)
            if shown.stdout.strip() == "yes":
                # Another unit names this one (After=), so that systemd read it before it had its drop-in: as it is, the
                # daemon would be a user who may open no device.
                self._runner.run(["systemctl", "daemon-reload"])
            self._read.add(client)
        return unit

    def _verb(self, verb: str, client: str) -> None:
        unit = self._unit(client)
        try:
            # One that failed however often is not refused: the unit has StartLimitIntervalSec=0.
            self._runner.run(["systemctl", verb, unit])
        except CommandFailed as error:
            raise NotReady(
                f"the storage daemon of client {client} does not {verb}",
                why=error.why,
                hint=f"see `journalctl -u {unit}`",
            ) from error


def unit_name(client: str) -> str:
    """The unit of a client's storage daemon. Clients' names are safe as instance names as they are."""
    return f"hatchery-nbd@{client}.service"


def describe_show(text: str) -> str:
    """``systemctl show`` with ActiveState, SubState and Result, as words."""
    values = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    words = f"{values.get('ActiveState', 'unknown')} ({values.get('SubState', 'unknown')})"
    result = values.get("Result", "success")
    return words if result in ("", "success") else f"{words}, {result}"


class Direct:
    """Daemons without a service manager, for the User-Mode Linux lab. One that ends is started again.

    What the unit does for a daemon is done here: it runs as its own user, who finds his own files alone.
    """

    def __init__(self, runner: Runner, paths: Paths) -> None:
        self._runner = runner
        self._paths = paths
        self._users = DaemonUsers(paths.run / "units")
        self._lock = threading.RLock()
        self._pidfds: dict[str, int] = {}
        self._wake_reader, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closed = threading.Event()
        self._guard = threading.Thread(target=self._look_after, name="storage daemons", daemon=True)
        self._guard.start()

    def start(self, client: str) -> None:
        """See Units. A daemon that outlived a former hatcheryd is taken over."""
        with self._lock:
            if client not in self._pidfds:
                pidfd = self._find(client)
                self._pidfds[client] = self._launch(client) if pidfd is None else pidfd
        self._wake()

    def stop(self, client: str) -> None:
        """See Units."""
        with self._lock:
            pidfd = self._pidfds.pop(client, None)
            if pidfd is None:
                pidfd = self._find(client)
            if pidfd is None:
                return
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not select.select([pidfd], [], [], 10)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], 10)
            os.close(pidfd)
        self._wake()

    def restart(self, client: str) -> None:
        """See Units."""
        self.stop(client)
        self.start(client)

    def kill(self, client: str) -> None:
        """See Units."""
        with self._lock:
            pidfd = self._pidfds.get(client)
            if pidfd is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def describe(self, client: str) -> str:
        """See Units."""
        with self._lock:
            pidfd = self._pidfds.get(client)
            ended = pidfd is not None and bool(select.select([pidfd], [], [], 0)[0])
        if pidfd is None:
            return "stopped"
        return "ended, about to be restarted" if ended else "running"

    def user(self, client: str) -> int:
        """See Units."""
        return self._users.of(client)

    def close(self) -> None:
        """See Units."""
        self._closed.set()
        self._wake()
        self._guard.join()
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b"!")
        except BlockingIOError:
            return

    def _launch(self, client: str) -> int:
        user = self._users.of(client)
        credentials = self._hand_over(client, user)
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all"]
        # Nobody keeps its socket here.
        words += ["env", "--unset=NOTIFY_SOCKET", f"CREDENTIALS_DIRECTORY={credentials}"]
        try:
            self._runner.run([*words, sys.executable, "-m", "appliance.nbd_server", client], timeout=30)
        except CommandFailed as error:
            raise NotReady(f"the storage daemon of client {client} does not start", why=error.why) from error
        return wait.until(lambda: self._find(client), f"the storage daemon of {client}", deadline=5)

    def _hand_over(self, client: str, user: int) -> Path:
        """Give a daemon its folder, and its seeds to read; the folder of its key, which is a copy (LoadCredential=)."""
        folder, seeds = self._paths.nbd(client), self._paths.seeds(client)
        credentials, source = folder / "credentials", self._paths.tls(client)
        shutil.rmtree(credentials, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, credentials)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
        folder.chmod(0o2750)
        for path in (seeds, *seeds.rglob("*")) if seeds.is_dir() else ():
            os.chown(path, 0, user)
        if seeds.is_dir():
            seeds.chmod(0o2750)
        return credentials

    def _find(self, client: str) -> int | None:
        """A pidfd of the client's running daemon, found by its pid file."""
        files = Files(self._paths.nbd(client))
        try:
            pid = int(files.pid.read_text(encoding="ascii"))
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        # The file may be left over and the number be somebody else's by now.
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            words = b""
        if str(files.pid).encode() in words:
            return pidfd
        os.close(pidfd)
        return None

    def _look_after(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                watched = {pidfd: client for client, pidfd in self._pidfds.items()}
            ready, _, _ = select.select([self._wake_reader, *watched], [], [], None)
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
            for client in (watched[fd] for fd in ready if fd in watched):
                self._closed.wait(RESTART_PAUSE)
                self._revive(client)

    def _revive(self, client: str) -> None:
        with self._lock:
            pidfd = self._pidfds.get(client)
            if pidfd is None or not select.select([pidfd], [], [], 0)[0]:
                return  # stopped or restarted in between
            log.warning("the storage daemon of client %s ended: starting it again", client)
            try:
                self._pidfds[client] = self._launch(client)
            except HatcheryError:
                log.exception("the storage daemon of client %s does not come back", client)
                return
            os.close(pidfd)
