"""The kernel as a client: hatchery-attach on clones of a real storage daemon that dies under load."""

import errno
import signal
from collections.abc import Iterator

import pytest

from appliance import wait
from tests.kernel.inside import attach
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon, with_clones

PLAIN, TLS = 10821, 10822
WEB = "nbd+unix:///web?socket=/run/hatchery/nbd/local/nbd.sock"
OTHER = "nbd+unix:///other?socket=/run/hatchery/nbd/local/nbd.sock"
DB = f"nbd://127.0.0.1:{PLAIN}/db"

BRIDGE = (
    "qemu-storage-daemon --object tls-creds-x509,id=t,endpoint=client,dir=/run/hv1 "
    f"--blockdev driver=nbd,node-name=mail,server.type=inet,server.host=127.0.0.1,server.port={TLS},export=mail,"
    "tls-creds=t,reconnect-delay=600,discard=unmap,cache.direct=on "
    "--nbd-server addr.type=unix,addr.path=/run/mail.sock "
    "--export type=nbd,id=mail,node-name=mail,name=mail,writable=on"
)
"""As docs/attach.md has it."""


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = with_clones(store, "web", "other")
    lab = running.lab
    lab.run(["hatchery", "client", "add", "lab", "--tcp", f"127.0.0.1:{PLAIN}", "--plain"])
    lab.call(inside.clones, "db", "debian", None, "lab")
    yield running
    print(running.job.stderr)


def fails(lab: Lab, *words: str) -> str:
    """What hatchery-attach says when it fails."""
    done = lab.run(["hatchery-attach", *words], check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.heavy
def test_the_kernel_waits_for_a_storage_daemon_that_died(daemon: Daemon) -> None:
    lab = daemon.lab
    # The appliance loads it, for itself; other hosts do when they are told.
    lab.run(["rmmod", "nbd"])
    assert "modprobe nbd" in fails(lab, WEB)
    lab.run(["modprobe", "nbd"])
    assert lab.call(attach.listed) == []

    # What others made is shown and left alone, and the kernel picks another device for us.
    foreign = f"/dev/nbd{lab.call(attach.foreign, OTHER)}"
    watcher = lab.begin(["hatchery-attach", "--watch", "--dead-timeout", "120", WEB])
    device = lab.call(attach.attached, WEB)
    assert device != foreign
    assert lab.call(attach.listed) == [
        {"device": foreign, "export": "somebody/else", "size": 24 << 20, "read_only": False, "ours": False},
        {"device": device, "export": WEB, "size": 24 << 20, "read_only": False, "ours": True},
    ]
    assert "not made by hatchery-attach" in fails(lab, "--detach", foreign)
    # Who asks for it again gets the device that there is.
    assert lab.run(["hatchery-attach", WEB]).stdout == f"{device}\n"

    load = lab.begin_call(attach.load, device, "/run/load", timeout=240)
    for _ in range(3):
        lab.call(attach.progress, "/run/load", 20)
        lab.call(inside.kill_daemon)
        lab.call(attach.progress, "/run/load", 20)
    assert watcher.stderr.count("has its connections") >= 3
    # Who stands by may die as well: the next one goes on with the same device, and with what happened meanwhile.
    watcher.kill()
    lab.call(inside.kill_daemon)
    watcher = lab.begin(["hatchery-attach", "--watch", WEB])
    lab.call(attach.progress, "/run/load", 20)
    assert not load.done()
    lab.run(["touch", "/run/load/stop"])
    result = load.result()
    print(result)
    assert result["longest"] < 20

    # What is in use stays, also when it is asked by SIGTERM; what is not goes, and takes its connection with it.
    lab.run(["mkfs.ext4", "-q", device])
    lab.run(["mkdir", "/run/mounted"])
    lab.run(["mount", device, "/run/mounted"])
    lab.run(["sh", "-c", "echo kept >/run/mounted/file"])
    assert "is in use" in fails(lab, "--detach", device)
    watcher.kill(signal.SIGTERM)
    assert watcher.completed(20).returncode == 1
    assert "is in use" in watcher.stderr
    assert lab.run(["cat", "/run/mounted/file"]).stdout == "kept\n"
    watcher = lab.begin(["hatchery-attach", "--watch", WEB])
    wait.until(lambda: f"{device} is" in watcher.stderr, "the next one to stand by", deadline=40)
    lab.run(["umount", "/run/mounted"])
    assert lab.run(["hatchery-attach", "--detach", device]).stdout == f"{device}\n"
    assert watcher.completed(20).returncode == 0
    assert [one["device"] for one in lab.call(attach.listed)] == [foreign]
    assert "is not attached" in fails(lab, "--detach", WEB)

    # It was the clone that was written to.
    watcher = lab.begin(["hatchery-attach", "--watch", WEB])
    lab.run(["mount", "-o", "ro", lab.call(attach.attached, WEB), "/run/mounted"])
    assert lab.run(["cat", "/run/mounted/file"]).stdout == "kept\n"
    lab.run(["umount", "/run/mounted"])
    watcher.kill(signal.SIGTERM)
    assert watcher.completed(20).returncode == 0
    assert [one["device"] for one in lab.call(attach.listed)] == [foreign]
    assert lab.call(inside.remove, "web", False)


def test_requests_fail_after_the_dead_timeout_and_a_new_connection_makes_the_device_work_again(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.run(["modprobe", "nbd"])
    watcher = lab.begin(["hatchery-attach", "--watch", "--dead-timeout", "3", WEB])
    device = lab.call(attach.attached, WEB)
    assert lab.call(attach.digest, device) == lab.call(inside.digest)
    # Who would start another one is gone.
    daemon.stop()
    lab.call(inside.end_daemon)
    failed = lab.call(attach.failed_read, device)
    assert failed["error"] == errno.EIO
    assert failed["seconds"] >= 2.5, "it waits as long as it was told, and no request fails at once"
    daemon.begin()
    wait.until(lambda: "has its connections" in watcher.stderr, "new connections", deadline=60)
    assert lab.call(attach.digest, device) == lab.call(inside.digest)
    watcher.kill(signal.SIGTERM)
    assert watcher.completed(20).returncode == 0
    assert lab.call(attach.listed) == []


@pytest.mark.heavy
def test_several_connections_and_what_is_refused(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.run(["modprobe", "nbd"])
    lab.run(["hatchery", "client", "add", "hv1", "--tcp", f"127.0.0.1:{TLS}"])
    lab.call(inside.clones, "mail", "debian", None, "hv1")
    assert "without TLS: the kernel's NBD client has no TLS" in fails(lab, f"nbd://127.0.0.1:{TLS}/mail")
    assert "qemu-storage-daemon" in fails(lab, f"nbds://127.0.0.1:{TLS}/mail")
    assert "has no export 'mail'" in fails(lab, f"nbd://127.0.0.1:{PLAIN}/mail")
    # What is offered instead works: QEMU's storage daemon between, with TLS on one side and none on the other.
    lab.run(["hatchery", "client", "certificate", "hv1", "/run/hv1"])
    bridge = lab.begin(BRIDGE.split())
    lab.call(attach.listens, "/run/mail.sock")
    mail = "nbd+unix:///mail?socket=/run/mail.sock"
    assert lab.call(attach.digest, lab.run(["hatchery-attach", mail]).stdout.strip()) == lab.call(inside.digest)
    lab.run(["hatchery-attach", "--detach", mail])
    bridge.kill()
    assert "cannot be reached" in fails(lab, "nbd://127.0.0.1:1/db")
    assert lab.call(attach.listed) == []

    device = lab.run(["hatchery-attach", "--connections", "4", DB]).stdout.strip()
    assert lab.call(attach.connected, "lab") == 4
    assert lab.call(attach.digest, device) == lab.call(inside.digest)

    # Without anybody who stands by, the same command gives the device its connections again.
    lab.call(inside.kill_daemon, "lab")
    assert lab.run(["hatchery-attach", "--connections", "4", DB]).stdout.strip() == device
    assert lab.call(attach.connected, "lab") == 4
    assert lab.call(attach.digest, device) == lab.call(inside.digest)
    lab.run(["hatchery-attach", "--detach", DB])
    assert lab.call(attach.listed) == []
    assert lab.call(inside.remove, "db", False)
