"""A host of guests with a libvirtd of its own: a Debian 13 tree in namespaces, beside this machine's own services.

Its libvirtd has a root, a /run and a network of its own, and ends with the first process of the host, whose id is
known. From its network one address leads out: the appliance's, as the appliance itself knows it.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.measure import qemu
from appliance.run import Completed, Process, Runner
from appliance.wait import until
from tests.appliance.site import Play, Playbook

QEMU_CONF = """\
# Everything here is root's, and goes with the host: nothing of this machine's cgroups, security modules or services.
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""

NETWORK = """\
<network>
  <name>default</name>
  <forward mode="open"/>
  <bridge name="virbr0"/>
  <ip address="192.168.122.1" netmask="255.255.255.0">
    <dhcp><range start="192.168.122.2" end="192.168.122.254"/></dhcp>
  </ip>
</network>
"""
"""As libvirt's own, but without rules of a firewall: not every kernel that tests run on has all that those need."""

LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

SCRIPT = """\
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$FOLDER/upper,workdir=$FOLDER/work" "$FOLDER/root"
cd "$FOLDER/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount --rbind /dev dev
mkdir -p ".$FOLDER/shared"
mount --bind "$FOLDER/shared" ".$FOLDER/shared"
printf '%s' "$QEMU_CONF" >etc/libvirt/qemu.conf
printf '%s' "$LIBVIRTD_CONF" >etc/libvirt/libvirtd.conf
printf '%s\n' 0123456789abcdef0123456789abcdef >etc/machine-id
if [ -n "$CERTIFICATE" ]; then
    mkdir -p etc/pki/libvirt-nbd
    cp "$CERTIFICATE"/*.pem etc/pki/libvirt-nbd
fi
ip link set lo up
ip address add "$ADDRESS/32" dev lo
chroot . libvirtd &
wait $!
"""
"""The first process of its namespace: all else ends with it, and it takes leave of what libvirtd leaves behind."""

GUESTS = """\
import json, pathlib
lines = [path.read_text(errors="replace").split(chr(0)) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")]
print(json.dumps([words for words in lines if "qemu-system" in words[0]]))
"""

_CLONE_NEWNET = 0x40000000


@dataclass
class Host:
    """The running host. ``pid`` is libvirtd's, as this machine counts; ``shared`` is a folder of both, by one path."""

    pid: int
    folder: Path
    runner: Runner

    @property
    def shared(self) -> Path:
        """See Host."""
        return self.folder / "shared"

    @property
    def python(self) -> Path:
        """A program that is the host's Python, for Ansible."""
        return self.folder / "python"

    @property
    def reached(self) -> dict[str, Any]:
        """Variables by which Ansible reaches it."""
        return {
            "ansible_connection": "local",
            "ansible_python_interpreter": str(self.python),
            # Modules lie where both sides see them; nobody has to become root.
            "ansible_remote_tmp": str(self.shared),
            "ansible_become": False,
        }

    def words(self, *argv: str | Path) -> list[str | Path]:
        """A command line that runs a command there."""
        return [*_enter(self.pid), *argv]

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 60) -> Completed:
        """Run a command there."""
        return self.runner.run(self.words(*argv), check=check, timeout=timeout)

    def virsh(self, *words: str, check: bool = True) -> str:
        """What virsh says there."""
        return self.run("virsh", "--connect", "qemu:///system", *words, check=check).stdout

    def running(self) -> list[str]:
        """The guests that run."""
        return sorted(self.virsh("list", "--name").split())

    def play(self, folder: Path, *words: str, **variables: Any) -> Play:
        """Run the example play for this host, of which only what differs from host to host is changed; it must not
        fail. ``folder`` is for Ansible's own files.
        """
        chosen = {
            "guests_memory_mib": 512,
            "guests_processors": 1,
            "guests_virtualization": "qemu" if qemu.accelerator().emulated else "kvm",
            **variables,
        }
        book = Playbook("examples/guests", folder, {"hv1": self.reached}, group="hypervisors")
        done = book.run("--diff", "--extra-vars", json.dumps(chosen), *words)["hv1"]
        assert done.failed == 0, done.said
        return done

    def guests(self) -> list[list[str]]:
        """The command lines of the QEMU processes there."""
        found: list[list[str]] = json.loads(self.run("/usr/bin/python3", "-c", GUESTS).stdout)
        return found


def _enter(pid: int) -> list[str]:
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wdns=/"]


@contextmanager
def running(
    tree: Path, folder: Path, address: str, ports: Sequence[tuple[int, int]], certificate: Path | None = None
) -> Iterator[Host]:
    """The host. Its ``address`` at each first port leads to 127.0.0.1 here at the second one.

    The client's ``certificate`` is in its place before libvirtd starts, which looks for it then.
    """
    runner = Runner(
        {
            "TREE": str(tree),
            "FOLDER": str(folder),
            "ADDRESS": address,
            "CERTIFICATE": str(certificate or ""),
            "QEMU_CONF": QEMU_CONF,
            "LIBVIRTD_CONF": LIBVIRTD_CONF,
        }
    )
    for name in ("upper", "work", "root", "shared"):
        (folder / name).mkdir(parents=True)
    unshared = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child"]
    log = folder / "libvirtd.log"
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        process = runner.start(["unshare", *unshared, "sh", "-c", SCRIPT], stdout=output, stderr=subprocess.STDOUT)
        stack.callback(_end, process)
        try:
            pid = until(lambda: _child(process, log), "libvirtd to be started", deadline=60)
            host = Host(pid, folder, Runner())
            host.python.write_text('#!/bin/sh\nexec {} /usr/bin/python3 "$@"\n'.format(" ".join(_enter(pid))))
            host.python.chmod(0o755)
            until(lambda: _answers(host, process, log), "libvirtd", deadline=120, interval=0.5)
            (host.shared / "network.xml").write_text(NETWORK)
            host.virsh("net-define", str(host.shared / "network.xml"))
            host.virsh("net-start", "default")
            for inside, outside in ports:
                stack.enter_context(_passage(pid, (address, inside), ("127.0.0.1", outside)))
            yield host
        except BaseException as error:
            error.add_note(log.read_text(errors="replace")[-4000:])
            raise


def _child(process: Process, log: Path) -> int | None:
    """libvirtd, once the script has become it."""
    if not process.running():
        raise AssertionError(log.read_text(errors="replace"))
    for first in _children(process.pid):
        for child in _children(first):
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text(encoding="ascii").strip() == "libvirtd":
                    return child
    return None


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _answers(host: Host, process: Process, log: Path) -> bool:
    if not process.running():
        raise AssertionError(log.read_text(errors="replace"))
    return host.run("virsh", "--connect", "qemu:///system", "version", check=False).returncode == 0


def _end(process: Process) -> None:
    """End the first process of the namespace, and with it all that is in it: it is told by its own id."""
    process.signal(signal.SIGKILL)
    process.wait(60)


@contextmanager
def _passage(pid: int, here: tuple[str, int], there: tuple[str, int]) -> Iterator[None]:
    """Lead connections to an address in the network of a process to one of this machine's own."""
    ended, ends = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, ended)
        stack.callback(os.close, ends)
        listening = stack.enter_context(_listen_in(pid, here))
        thread = threading.Thread(target=_lead, args=(listening, there, ended))
        thread.start()
        try:
            yield
        finally:
            os.write(ends, b"!")
            thread.join()


def _lead(listening: socket.socket, there: tuple[str, int], ended: int) -> None:
    """Carry each connection to its end, or until there is something to be read from ``ended``."""
    with ExitStack() as stack:
        while True:
            ready, _, _ = select.select([listening.fileno(), ended], [], [])
            if ended in ready:
                return
            near, _ = listening.accept()
            try:
                far = socket.create_connection(there)
            except OSError:  # nobody serves there at this moment
                near.close()
                continue
            carrier = threading.Thread(target=_carry, args=(near, far))
            carrier.start()
            stack.callback(carrier.join)
            stack.callback(_hang_up, near, far)


def _carry(near: socket.socket, far: socket.socket) -> None:
    with near, far:
        back = threading.Thread(target=_pour, args=(far, near))
        back.start()
        _pour(near, far)
        back.join()


def _listen_in(pid: int, address: tuple[str, int]) -> socket.socket:
    """A socket that listens in the network of another process: a thread of its own goes there and makes it."""
    made: list[socket.socket] = []

    def work() -> None:
        with Path(f"/proc/{pid}/ns/net").open("rb") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET) != 0:
                return
        made.append(socket.create_server(address))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert made, "the host's network cannot be entered"
    return made[0]


def _pour(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes; its end is the end of both directions."""
    with suppress(OSError):
        while data := source.recv(1 << 18):
            target.sendall(data)
    _hang_up(source, target)


def _hang_up(*both: socket.socket) -> None:
    for one in both:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def check_disks(host: Host, address: str, port: int, names: Sequence[str], *, tls: bool) -> None:
    """QEMU was started with all that keeps these guests from harm, and with a certificate where there is ``tls``."""
    machines = host.guests()
    assert len(machines) == len(names), machines
    exports = []
    for words in machines:
        (disk,) = [json.loads(word) for word in words if word.startswith('{"driver":"nbd"')]
        exports.append(disk["export"])
        assert disk["server"] == {"type": "inet", "host": address, "port": str(port)}
        assert (disk["reconnect-delay"], disk["discard"]) == (600, "unmap")
        assert ("tls-creds" in disk) is tls
        assert disk["cache"] == {"direct": True, "no-flush": False}
        (device,) = [json.loads(word) for word in words if word.startswith('{"driver":"virtio-blk-pci"')]
        assert (device["werror"], device["write-cache"]) == ("enospc", "on")
    assert sorted(exports) == sorted(names)


def remove(folder: Path) -> None:
    """What is left of the host when it has ended: its mounts went with it."""
    shutil.rmtree(folder, ignore_errors=True)
