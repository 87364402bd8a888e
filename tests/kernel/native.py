"""The storage daemon on this machine itself, without the emulated one: what NBD costs where a system call is cheap.

Programs are those of the lab's tree, started by its own loader, with the words that the appliance starts its daemons
with. A file of this machine, read past the page cache, stands for the clone's device: there is no device-mapper here.
"""

import os
import tempfile
import time
from pathlib import Path

from appliance import pki, wait
from appliance.host import storage_daemon
from appliance.host.storage_daemon import Export, Files, Listen, ServerConfig
from appliance.model import MIB
from appliance.run import Process, Runner
from tests.kernel.inside import reads

SPAN = 256 * MIB
"""How large the file is: more than a disk keeps at hand for itself."""

PORTS = {"plain": 10831, "tls": 10832}


def program(tree: Path, name: str) -> list[str]:
    """How a program of the tree is started here."""
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    path = f"{libraries}:{libraries}/ceph"
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", path, str(tree / "usr/bin" / name)]


def measure(tree: Path, runs: int, seconds: int) -> dict[str, dict[str, list[float]]]:
    """As ``inside.bench_access.requests``, here; nothing is left."""
    runner = Runner()
    with tempfile.TemporaryDirectory(prefix="hatchery-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        disk = folder / "disk.raw"
        with disk.open("wb") as file:
            for _ in range(SPAN // (4 * MIB)):
                file.write(os.urandom(4 * MIB))
            os.fsync(file.fileno())
        # libnbd looks here for the certificate of who is not root.
        keys = folder / ".pki" / "libnbd"
        _keys(keys)
        daemons: list[Process] = []
        try:
            daemons.extend(_serve(tree, runner, folder / door, disk, door, keys) for door in ("unix", *PORTS))
            targets = {
                "device": ["--ioengine=libaio", "--direct=1", f"--filename={disk}"],
                "unix": ["--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={folder}/unix/nbd.sock"],
                "plain": ["--ioengine=nbd", f"--uri=nbd://127.0.0.1:{PORTS['plain']}/disk"],
                "tls": ["--ioengine=nbd", f"--uri=nbds://127.0.0.1:{PORTS['tls']}/disk"],
            }
            # root, who is told that he is not.
            fio = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "env", f"HOME={folder}"]
            fio += program(tree, "fio")
            return {
                name: reads.take_turns({each: targets[each] for each in pair}, depth, runs, seconds, SPAN, fio)
                for name, pair, depth in reads.COMPARED
            }
        finally:
            for daemon in daemons:
                daemon.stop()


def _serve(tree: Path, runner: Runner, folder: Path, disk: Path, door: str, keys: Path) -> Process:
    """A daemon as the appliance starts one, for the file."""
    folder.mkdir()
    files = Files(folder)
    listen = Listen(path=files.socket)
    if door != "unix":
        listen = Listen(address="127.0.0.1", port=PORTS[door], tls=door == "tls")
    allowed = (pki.distinguished_name("bench", _serial(keys)),)
    config = ServerConfig("bench", listen, (Export("disk", "disk", disk),), allowed)
    words = storage_daemon.command(config, files, storage_daemon.aio_engine(), keys)
    # A file where the appliance has a device; all else is the same.
    told = [word.replace('"driver": "host_device"', '"driver": "file"') for word in words[1:]]
    with files.log.open("wb") as log:
        started = runner.start([*program(tree, words[0]), *told], stderr=log)
    try:
        wait.until(files.pid.exists, f"the daemon to listen: {files.log}", deadline=20)
    except BaseException:
        started.stop()
        raise
    return started


def _keys(folder: Path) -> None:
    """What server and client show."""
    folder.mkdir(parents=True)
    now = time.time()
    authority = pki.new_authority(now)
    server, client = pki.server(authority, "localhost", ["127.0.0.1"], now), pki.client(authority, "bench", now, 86400)
    for name, text in (
        ("ca-cert.pem", authority.certificate),
        ("server-cert.pem", server.certificate),
        ("server-key.pem", server.key),
        ("client-cert.pem", client.certificate),
        ("client-key.pem", client.key),
        ("serial", client.serial),
    ):
        (folder / name).write_text(text, encoding="ascii")


def _serial(folder: Path) -> str:
    return (folder / "serial").read_text(encoding="ascii")
