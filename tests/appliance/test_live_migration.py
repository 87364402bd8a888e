"""A guest migrates from one host to another while it writes, and its clone goes with it.

One story, in its order: the second host is refused until it is declared; a migration that is cancelled leaves the guest
where it was; one that is not takes it to the second host, which has the disk alone afterwards. The hosts are QEMU
processes on this machine. The first one's client is reached in plain text, the second one's over TLS.

Runs after test_life.py, whose first tests need an appliance that was not deployed yet.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.measure.guest import NbdTarget
from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.migration import CRAWL, DEADLINE, RUN, Guest, Side, look, running, words_for
from tests.appliance.site import ADDRESS, CLIENT, NBD_PORT, SECOND_PORT, TEMPLATE, Commands, Play, Site

pytestmark = pytest.mark.heavy

CLONE, SECOND = "wanderer", "hv2"
IN_USE = 6
"""The commands' exit status when somebody has it."""


@dataclass
class Story:
    """The guest, the first host's side, and the clone as each of the two clients finds it."""

    site: Site
    hatchery: Commands
    folder: Path
    first: NbdTarget
    second: NbdTarget
    source: Side
    guest: Guest
    boot: str

    @contextmanager
    def declared(self, name: str) -> Iterator[Side]:
        """The second host's side, which waits for the guest: both clients may write from now on."""
        view = self.hatchery.get("clone", "attach", CLONE, "--client", SECOND, "--shared", "--for", "1h")
        assert (view["client"], view["shared"]["client"]) == (CLIENT, SECOND)
        disk = words_for(view["shared"]["qemu"], self.second)
        try:
            with running(self.site.runner, SECOND, disk, self.folder / name, incoming=True) as side:
                yield side
        except Exception:
            print(self.source.report())
            raise

    def send(self, to: Side) -> None:
        """Begin the migration, slowly, and see the guest write meanwhile."""
        self.source.send(to.receive(), CRAWL)
        before = self.source.writes()
        until(lambda: self.source.writes() > before, "the guest to write as it migrates", deadline=DEADLINE)
        assert (self.source.state(), to.state()) == ("running", "inmigrate")

    def once_let_go(self, *words: str) -> Any:
        """The JSON of a command that is refused until the appliance has seen that the other side hung up."""

        def attempt() -> Any:
            done = self.hatchery.run(*words)
            assert done.returncode in (0, IN_USE), done.stderr
            return None if done.returncode else json.loads(done.stdout)

        return until(attempt, f"`{' '.join(words)}` to be let", deadline=DEADLINE, interval=1)

    def shut_out(self, target: NbdTarget) -> bool:
        """Whether the clone is not there for this client."""
        done = look(self.site.runner, target, "read 0 64k")
        print(f"port {target.port}:", done.returncode, done.stdout, done.stderr)
        return done.returncode != 0 and f"export '{CLONE}' not present" in done.stderr


@pytest.fixture(scope="module")
def story(site: Site, deployed: Play) -> Iterator[Story]:
    if deployed.failed:
        pytest.fail(deployed.said)
    with tempfile.TemporaryDirectory(prefix="hatchery-test-", dir="/var/tmp") as name, ExitStack() as stack:
        folder, keys = Path(name), Path(name) / "keys"
        hatchery = stack.enter_context(site.commands())
        hatchery.get("client", "add", SECOND, "--tcp", f"{ADDRESS}:{SECOND_PORT}")
        stack.callback(hatchery.get, "client", "remove", SECOND)
        hatchery.get("client", "certificate", SECOND, str(keys))
        [view] = hatchery.get("clone", "create", CLONE, "--template", TEMPLATE, "--client", CLIENT)
        stack.callback(hatchery.get, "clone", "remove", CLONE, "--force")
        first = NbdTarget(CLONE, host=LOOPBACK, port=site.vm.port(NBD_PORT))
        second = NbdTarget(
            CLONE, host=LOOPBACK, port=site.vm.port(SECOND_PORT), certificates=str(keys), known_as=ADDRESS
        )
        disk = words_for(view["qemu"], first)
        source = stack.enter_context(running(site.runner, CLIENT, disk, folder / "source"))
        guest = Guest(source)
        yield Story(site, hatchery, folder, first, second, source, guest, guest.boot())


def test_the_second_host_is_refused_until_it_is_declared(story: Story) -> None:
    status, error = story.hatchery.refusal("clone", "attach", CLONE, "--client", SECOND)
    assert status == IN_USE
    assert "--shared" in error["hint"]
    assert story.shut_out(story.second)
    assert not story.shut_out(story.first)


def test_a_migration_that_is_cancelled_leaves_the_guest_where_it_was(story: Story) -> None:
    with story.declared("cancelled") as second:
        story.send(second)
        story.source.ask("migrate_cancel")
        assert story.source.sent() == "cancelled"
        assert story.source.state() == "running"
        assert second.machine.process.wait(DEADLINE) != 0
    view = story.once_let_go("clone", "detach", CLONE, "--client", SECOND)
    assert (view["client"], view["shared"]) == (CLIENT, None)
    assert story.shut_out(story.second)
    story.guest.goes_on()
    assert story.guest.boot() == story.boot


def test_a_guest_migrates_with_its_disk(story: Story) -> None:
    guest, source = story.guest, story.source
    with story.declared("second") as second:
        story.send(second)
        before = guest.written()
        source.pace(RUN)
        assert source.sent() == "completed"
        second.arrived()
        print("migrated:", source.ask("query-migrate"))
        guest.follow(second)
        assert (source.state(), second.state()) == ("postmigrate", "running")
        assert guest.boot() == story.boot
        assert guest.goes_on() > before
        assert second.writes() > 0

        # The first host has not let go yet, and is not made to.
        status, error = story.hatchery.refusal("clone", "move", CLONE, "--client", SECOND)
        assert (status, f"client {CLIENT} is connected" in error["why"]) == (IN_USE, True), error
        source.ask("quit")
        source.machine.process.wait(DEADLINE)
        [view] = story.once_let_go("clone", "move", CLONE, "--client", SECOND)
        assert (view["client"], view["shared"]) == (SECOND, None)
        assert story.shut_out(story.first)
        assert story.hatchery.refusal("clone", "attach", CLONE, "--client", CLIENT)[0] == IN_USE

        arrived = guest.goes_on()
        last = guest.stop()
        print("blocks before, then, at last:", before, arrived, last)
        assert before < arrived <= last
        assert guest.check() == last
        assert guest.boot() == story.boot
        guest.reset(second)
        assert guest.boot() != story.boot
        assert guest.check() == last
    assert story.site.failed_units() == ""
