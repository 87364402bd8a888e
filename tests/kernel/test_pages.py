"""What the documentation says to type on an appliance, typed there: page by page, as the text stands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from tests.kernel.inside import pages as inside
from tests.kernel.inside import service
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon
from tests.pages import ROOT, Place, Story, commands, printed

TLS, PLAIN = 10809, 10810


@dataclass(frozen=True)
class Needs:
    """What is there when a page begins: clients by their ports, and clones by the clients that have them."""

    clients: Mapping[str, int] = field(default_factory=dict)
    clones: Mapping[str, str] = field(default_factory=dict)


NEEDS = {
    # It speaks of the template's first version. Numbers are not given again.
    "docs/day-two.md": Needs(clones={"web": "local"}),
    "README.md": Needs({"hv1": TLS}),
    "docs/attach.md": Needs({"hv1": TLS, "lab": PLAIN}, {"web": "lab"}),
    "docs/deployment.md": Needs({"hv1": TLS}),
    "docs/security.md": Needs(clones={"db": "local"}),
    "roles/nbd_access/README.md": Needs({"hv1": TLS}),
}

BEFORE = {
    # What `script/image guest` would have built.
    ("docs/deployment.md", "hatchery template add"): (
        "export HATCHERY_CACHE=$PWD/cache; guest=$(script/image guest --where); mkdir -p ${guest%/*};"
        " cp debian-13.qcow2 ${guest%raw}qcow2"
    ),
    ("docs/attach.md", "qemu-storage-daemon"): (
        "hatchery clone move web --client hv1; hatchery client certificate hv1 /etc/pki/libvirt-nbd"
    ),
    ("docs/security.md", "hatchery clone attach web --client hv2"): (
        "hatchery client add hv2 --address 192.0.2.10; hatchery clone create web --template debian-13 --client hv1"
    ),
    # An authority is refused while there are good certificates of another one, as the page says.
    ("docs/security.md", "hatchery authority use --certificate hatchery-ca.pem --key"): "hatchery client revoke hv1",
    ("docs/security.md", "hatchery client certificate hv1 hv1-certificate --signed"): "rm -r hv1-certificate",
}

CHANGES = {"NAME": "web", "cancel ID": 'cancel "$ID"', "8.0 GiB": "24.0 MiB"}


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    store.call(inside.appear)
    yield running
    print(running.job.stderr)


def test_the_commands_of_the_pages_do_what_they_say(daemon: Daemon) -> None:
    """In one lab, since a lab's start costs as much as a page; all pages are tried, and each begins anew."""
    lab, story = daemon.lab, Story(Place.LAB, BEFORE, CHANGES)
    assert set(story.pages()) == set(NEEDS)
    wrong: list[str] = []
    said: dict[str, str] = {}
    for number, (page, needs) in enumerate(NEEDS.items()):
        folder = f"/run/pages/{number}"
        lab.call(inside.begin, folder, needs.clients, needs.clones)
        environment: dict[str, str] = {}
        if page == "docs/day-two.md":
            # A job that takes too long.
            lab.begin_call(service.half_an_upload, "slow", f"{folder}/debian-13.qcow2", "qcow2")
            environment["ID"] = lab.call(inside.running, "import")
        script = f"cd {folder}\n{story.script(page)}"
        done = lab.run(["bash", "-c", script], env=environment, timeout=240, check=False)
        said.update(printed(done.stdout))
        if done.returncode:
            wrong.append(f"{page} ended with {done.returncode}:\n{done.stderr}")
        if page == "docs/attach.md":
            lab.run(["hatchery-attach", "--detach", "/dev/nbd0"], check=False)
            lab.call(inside.end_of, "/run/web.sock")
    assert not wrong, "\n".join(wrong)
    # What pages show of the commands' output is what they print.
    for page in story.pages():
        for command in commands(ROOT / page):
            if command.shown and command.where in said:
                assert said[command.where].split() == story.changed("\n".join(command.shown)).split(), command.where
    assert story.idle() == []
