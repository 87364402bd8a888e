"""What access costs, measured through the API of a real hatcheryd and at the sockets of real storage daemons.

Times in seconds, memory in bytes.
"""

import os
import resource
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from appliance.client import Client, connect
from appliance.config import Paths
from appliance.host import storage_daemon
from appliance.host.storage_daemon import Files
from appliance.model import KIB, MIB
from appliance.run import Runner
from appliance.schema import CertificateRequest, ClientSpec, CloneCreate
from tests.kernel.inside import iops, reads
from tests.kernel.inside.bench_clones import TEMPLATE, daemon, resident
from tests.kernel.inside.nbd_client import NbdClient, door

FEW, MANY = "few", "many"
"""Clients: one has one clone at a time, the other one ``MOST``."""

MOST = 500
BATCH = 20
CLIENTS = 50
KEYS = Path("/etc/pki/libnbd")
"""Where libnbd looks for root's certificate: fio lets no address name another place."""

_PORTS = {"plain": 10821, "tls": 10822}

Figures = dict[str, list[float]]


def exports(runs: int) -> Figures:
    """The first export of a client against the 500th of another one, in turn; then all 500 of them at once."""
    found: Figures = {"first": [], "last": [], "connected": [], "memory": [], "memory_connected": []}
    with daemon(), connect() as api:
        for client in (FEW, MANY):
            api.put_client(client, ClientSpec(transport="unix"))
        print(f"making {MOST - 1} clones that are exported to one client", flush=True)
        names = []
        # In pieces: a request of the API is to be answered within a minute.
        for batch, count in enumerate(_batches(MOST - 1, BATCH)):
            wanted = CloneCreate(name=f"clone{batch}", template=TEMPLATE, count=count, client=MANY, learn=False)
            names += [made.name for made in api.create_clones(wanted)]
        api.create_clones(CloneCreate(name="extra", template=TEMPLATE, client=None, learn=False))
        print("exporting one more, to a client that has none and to the one that has the others", flush=True)
        # The first of each is not counted: it imports and compiles what the others find.
        for number in range(-1, runs):
            for name, client in (("first", FEW), ("last", MANY)):
                begin = time.perf_counter()
                api.attach("extra", client)
                took = time.perf_counter() - begin
                api.detach("extra")
                if number >= 0:
                    found[name].append(took)
        api.attach("extra", MANY)
        print(f"first {median(found['first']):.3f} s, 500th {median(found['last']):.3f} s", flush=True)
        print(f"reading from {MOST} exports at once", flush=True)
        names.append("extra")
        found["memory"].append(_resident(MANY))
        with _connected([(name, MANY) for name in names]) as disks:
            found["connected"].append(_answers(disks))
            found["memory_connected"].append(_resident(MANY))
        for name in names:
            api.remove_clone(name, force=True)
    return found


def _batches(whole: int, most: int) -> list[int]:
    return [most] * (whole // most) + ([whole % most] if whole % most else [])


def clients() -> Figures:
    """Fifty clients with a clone each, all connected at once."""
    found: Figures = {"connected": [], "memory": []}
    names = [f"hv{number}" for number in range(1, CLIENTS + 1)]
    with daemon(), connect() as api:
        print(f"making {CLIENTS} clients with a clone each", flush=True)
        for name in names:
            api.put_client(name, ClientSpec(transport="unix"))
            api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=name, learn=False))
        with _connected([(name, name) for name in names]) as disks:
            found["connected"].append(_answers(disks))
            found["memory"].append(sum(_proportional(name) for name in names))
        for name in names:
            api.remove_clone(name, force=True)
            api.remove_client(name)
    return found


def requests(runs: int, seconds: int) -> dict[str, Figures]:
    """4 KiB random reads a second that hit, of a clone's device and of its export, and with TLS and without.

    By what is compared: the device and the unix socket with one and with 16 requests at a time, plain and TLS with 16.
    """
    with daemon(), connect() as api:
        print("filling clones", flush=True)
        (local,) = api.create_clones(CloneCreate(name="fast", template=TEMPLATE, learn=False))
        iops.fill(local.device)
        uris = {"unix": str(local.uri)}
        for name, port in _PORTS.items():
            uris[name] = _over_tcp(api, name, port)
        iops.requests_a_second(local.device, "read", seconds=seconds)
        device = ["--ioengine=libaio", "--direct=1", f"--filename={local.device}"]
        targets = {"device": device, **{name: ["--ioengine=nbd", f"--uri={uri}"] for name, uri in uris.items()}}
        found = {}
        for name, pair, depth in reads.COMPARED:
            print(f"random reads: {', '.join(pair)}, {depth} at a time", flush=True)
            found[name] = reads.take_turns({each: targets[each] for each in pair}, depth, runs, seconds, iops.SPAN)
            print(", ".join(f"{each} {median(rates):.0f}/s" for each, rates in found[name].items()), flush=True)
        return found


def _over_tcp(api: Client, name: str, port: int) -> str:
    """A client over TCP with a full clone; the clone's URI."""
    api.put_client(name, ClientSpec(transport="tcp", address="127.0.0.1", port=port, plain=name == "plain"))
    (made,) = api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=name, learn=False))
    iops.fill(made.device)
    if name == "plain":
        return str(made.uri)
    given = api.issue_certificate(name, CertificateRequest())
    shutil.rmtree(KEYS, ignore_errors=True)
    KEYS.mkdir(mode=0o700, parents=True)
    (KEYS / "ca-cert.pem").write_text(given.authority, encoding="ascii")
    (KEYS / "client-cert.pem").write_text(given.certificate, encoding="ascii")
    (KEYS / "client-key.pem").write_text(given.key.get_secret_value(), encoding="ascii")
    return str(made.uri).partition("?")[0]


def _connected(targets: Sequence[tuple[str, str]]) -> "_Crowd":
    return _Crowd(targets)


class _Crowd:
    """A connection to each of many exports of unix clients, given as names of clone and client."""

    def __init__(self, targets: Sequence[tuple[str, str]]) -> None:
        self._targets = targets
        self._stack = ExitStack()

    def __enter__(self) -> list[NbdClient]:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
        return [self._stack.enter_context(NbdClient(clone, door(client))) for clone, client in self._targets]

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _answers(disks: Sequence[NbdClient]) -> float:
    """How many of them give what they are asked for, while all are connected."""
    return float(sum(len(disk.read(MIB, 4 * KIB)) == 4 * KIB for disk in disks))


def _pid(client: str) -> int:
    return int(Files(Paths().nbd(client)).pid.read_text(encoding="ascii"))


def _resident(client: str) -> float:
    return resident(_pid(client))


def _proportional(client: str) -> float:
    """Memory of a daemon, each page that it shares with others counted in part (proc_pid_smaps_rollup)."""
    for line in Path(f"/proc/{_pid(client)}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) * KIB
    raise RuntimeError(f"the memory of {client}'s daemon is not told")


def facts() -> dict[str, str]:
    """What the machine inside runs."""
    run = Runner().run
    qemu = run(["qemu-storage-daemon", "--version"]).stdout.splitlines()[0].split("(")[0].strip()
    return {
        "kernel": f"{os.uname().release} (User-Mode Linux)",
        "tools": f"{qemu}, {run(['fio', '--version']).stdout.strip()}, engine {storage_daemon.aio_engine()}",
    }
