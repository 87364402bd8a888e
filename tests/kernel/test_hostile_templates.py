"""A corpus of hostile templates: refused, or plain data; no file of the appliance is ever read, time and memory are
bounded, and nothing is left (rule 16)."""

from collections.abc import Iterator

import pytest

from appliance.model import MIB
from tests.kernel.inside import hostile
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

REFUSED = {
    "backing.qcow2": ("BadImage", "backing file"),
    "backing-json.qcow2": ("BadImage", "backing file"),
    "backing-nbd.qcow2": ("BadImage", "backing file"),
    "data-file-on.qcow2": ("BadImage", "another file"),
    "data-file-off.qcow2": ("BadImage", "another file"),
    "luks.qcow2": ("BadImage", "encrypted"),
    "huge.qcow2": ("", ""),
    "bomb.qcow2": ("", ""),
    "truncated.qcow2": ("BadImage", "truncated"),
    "vmdk.qcow2": ("BadImage", "not a qcow2"),
    "vdi.qcow2": ("BadImage", "not a qcow2"),
    "descriptor.qcow2": ("BadImage", "not a qcow2"),
    "l1-far-away.qcow2": ("BadImage", ""),
    "data-beyond-the-end.qcow2": ("BadImage", ""),
    "l1-of-many.qcow2": ("BadImage", ""),
}
"""How each is refused that must be: with which error, in which words; empty for any."""

PLAIN = {"vmdk.raw", "vdi.raw", "descriptor.raw", "qcow2-header.raw", "data-file-header.raw"}
"""What is announced as raw, and is that, whatever it looks like."""

EITHER = {"l1-over-header.qcow2", "l2-over-l1.qcow2", "data-over-l2.qcow2", "data-over-header.qcow2"}
"""Tables that lie over each other: they may be refused or make nonsense, of their own bytes."""

SECONDS = 60.0
"""An import here takes about one."""


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    yield running
    print(running.job.stderr[-20000:])


def test_no_template_gets_at_what_is_not_its_own(daemon: Daemon) -> None:
    lab = daemon.lab
    corpus = set(lab.call(hostile.make, timeout=180))
    assert corpus == {"good.qcow2", *REFUSED, *PLAIN, *EITHER}
    before = lab.call(inside.used)["data"]
    for name in sorted(corpus):
        found = lab.call(hostile.take, name, timeout=180)
        assert found["seconds"] < SECONDS, (name, found)
        assert found["grown"] < 64 * MIB, (name, found)
        assert not found.get("told"), name
        if name in REFUSED:
            kind, words = REFUSED[name]
            assert "refused" in found, (name, found)
            assert kind in ("", found["refused"]), (name, found)
            assert words in found["words"], (name, found)
        elif name in PLAIN:
            assert found.get("as_it_is"), (name, found)
        elif name not in EITHER:
            assert found.get("digest") == lab.call(hostile.good), (name, found)
        assert lab.call(inside.volumes) == [], name
        assert lab.call(inside.devices) == [], name
    assert lab.call(inside.used)["data"] == before
    for name in ("json:{}", 'json:{"driver":"file","filename":"/run/secret.raw"}', "nbd:unix:/run/x"):
        assert lab.run(["hatchery", "template", "add", "named", name, "--format", "raw"], check=False).returncode != 0
    assert lab.call(inside.status)["problems"] == []
