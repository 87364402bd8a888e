"""hatcheryd in the lab: started, killed, started again."""

import signal

from tests.kernel.inside import service as inside
from tests.kernel.lab import Job, Lab


class Daemon:
    """A running hatcheryd."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.job: Job = self._begin()

    def _begin(self) -> Job:
        job = self.lab.begin(["hatcheryd", "--debug"])
        try:
            self.lab.call(inside.up, timeout=150)
        except Exception as error:
            error.add_note(job.stderr)
            raise
        return job

    def stop(self) -> None:
        """End it as a service manager does. Exports go on."""
        self.job.kill(signal.SIGTERM)
        self.job.completed(20)

    def begin(self) -> None:
        """Start it, after ``stop``."""
        self.job = self._begin()

    def restart(self) -> None:
        """End it as a service manager does, and start it again."""
        self.stop()
        self.begin()

    def kill(self) -> None:
        """kill -9, and start it again."""
        self.job.kill(signal.SIGKILL)
        self.job.wait(20)
        self.job = self._begin()

    def power_cut(self) -> None:
        """The whole machine goes down and comes up again, store and daemon too."""
        self.lab.restart()
        self.lab.run(["hatchery-store", "up"])
        self.job = self._begin()


def with_clones(lab: Lab, *names: str) -> Daemon:
    """A service that has an image, debian, and clones of it for the local client."""
    running = Daemon(lab)
    lab.call(inside.add_image, "debian")
    for name in names:
        lab.call(inside.clones, name, "debian")
    return running
