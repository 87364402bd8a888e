"""What the store's steps are applied to: the programs and the kernel of this machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from appliance import wait
from appliance.config import Config
from appliance.errors import DeadlineExceeded, InUse
from appliance.host import glance
from appliance.host.dm import Dm
from appliance.reconcile import Step
from appliance.run import Runner


@dataclass
class Machine:
    """The Runner, the settings, and device-mapper once it is needed."""

    config: Config
    runner: Runner = field(default_factory=Runner)

    @cached_property
    def dm(self) -> Dm:
        """The control device. Raises NotReady."""
        return Dm()

    @contextmanager
    def exclusive(self, deadline: float = 60.0) -> Iterator[None]:
        """Be the only process that changes the store's arrays, cache or pools. Raises InUse after ``deadline`` seconds.

        Two that wait for the same thing would do it twice: the program while the service heals, above all.
        """
        path = self.config.paths.run / "store.lock"
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fd, deadline)
            with glance.anew():
                yield
        finally:
            os.close(fd)

    @staticmethod
    def _lock(fd: int, deadline: float) -> None:
        def attempt() -> bool:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            wait.until(attempt, "the store to be free", deadline=deadline, interval=0.1)
        except DeadlineExceeded as error:
            raise InUse(
                "the store is being changed",
                why="another hatchery-store is running",
                hint="try again when it has ended",
            ) from error


StoreStep: TypeAlias = Step[Machine]
StoreSteps: TypeAlias = tuple[StoreStep, ...]
