"""The part of ``script/bench access`` that needs the built appliance: a unix socket, and NVMe/TCP beside NBD.

User-Mode Linux has no NVMe target, and a switch between processes costs it more than a read. So the appliance runs in
QEMU: qemu-img reads the local client's unix socket, and its own kernel is the client of the two others: by
hatchery-attach of the client's storage daemon, and as an NVMe host of the kernel's target, over TCP on the loopback.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from appliance.errors import CannotTell, NotReady
from appliance.measure import qemu
from appliance.model import MIB, Protocol
from appliance.schema import LOCAL_CLIENT, CloneCreate, NvmeKeyRequest, NvmeSpec
from appliance.wait import until
from bench import demo, deployment, fabric_reader
from bench.deployment import Deployed
from bench.fabric_reader import Plan, Turn
from bench.report import Row, at_least, paired

DEPTHS = (16, 1)
DEVICE, UNIX, NBD, NVME = "device", "unix", "nbd", "nvme-tcp"

FABRIC_NAMES = ("nvmetcp_over_nbd", "nvmetcp_qd1_over_nbd")
"""The rows of the fabric, 16 reads at a time and one."""

UNIX_NAMES = ("appliance_nbd_qd16_over_device", "appliance_nbd_qd1_over_device")
"""The same of a unix socket."""

NAMES = (*UNIX_NAMES, *FABRIC_NAMES)
"""All rows."""

SPAN = 48 * MIB
"""How much is read, as elsewhere in this bench; all of it is in the cache."""

TEMPLATE = "random"
PORT = 4420
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-0000-4000-8000-000000000001"


@dataclass(frozen=True)
class Found:
    """What was measured, and what it ran on."""

    machine: str
    turns: tuple[Turn, ...]
    backend_bytes: int
    """Read from the backend meanwhile."""

    def as_json(self) -> dict[str, Any]:
        """For the report's JSON."""
        return asdict(self)


def check() -> None:
    """Raise NotReady where no appliance can run."""
    if shutil.which(qemu.QEMU) is None:
        hint = "run script/bootstrap, or leave this part out by --part lab"
        raise NotReady("the built appliance cannot run", why=f"{qemu.QEMU} is not installed", hint=hint)


def measure(log: Path, turns: int, seconds: float) -> Found:
    """Everything, on an appliance that is removed afterwards."""
    with deployment.deployed(log, template=False) as on:
        with on.steps.step("Attach clones of one template over a unix socket, NBD and NVMe/TCP"):
            targets = _targets(on)
        with on.steps.step("Read what they share into the cache"):
            until(lambda: _reads_of_backend(on, targets[DEVICE]) == 0, "the clones to be in the cache", deadline=900)
        daemons = [_daemon(on, client) for client in (demo.CLIENT, LOCAL_CLIENT)]
        plan = Plan(targets, DEPTHS, turns, seconds, daemons, SPAN)
        with on.steps.step(f"Read in turns: {', '.join(targets)}"):
            before = on.client.counters().backend.read_bytes
            script = Path(fabric_reader.__file__).read_text(encoding="utf-8")
            # Its start, and the first reads of each, take seconds where all is emulated.
            deadline = len(targets) * len(DEPTHS) * (turns * (seconds + 5) * 3 + 120)
            said = on.vm.ssh(["python3", "-", json.dumps(asdict(plan))], stdin=script, timeout=deadline).stdout
            found = Found(
                _machine(on),
                tuple(Turn(**json.loads(line)) for line in said.splitlines()),
                on.client.counters().backend.read_bytes - before,
            )
        for line in told(found):
            on.steps.tell(f"  {line}")
        return check_hits(found)


def _daemon(on: Deployed, client: str) -> int:
    """The process id of a client's storage daemon."""
    unit = f"hatchery-nbd@{client}"
    return int(on.vm.ssh(["systemctl", "show", unit, "--property=MainPID", "--value"]).stdout)


def _targets(on: Deployed) -> dict[str, str]:
    """A clone's own device, and others': by the unix socket, the kernel's NBD client, the kernel's NVMe host."""
    ssh, api = on.vm.ssh, on.client
    ssh(["modprobe", "--all", "nbd", "nvme-tcp"])
    # Random, so that it looks like nobody's disk: the appliance's own kernel shows it to the appliance's own udev.
    ssh(["dd", "if=/dev/urandom", "of=/run/random.raw", "bs=1M", f"count={SPAN // MIB}", "status=none"], timeout=300)
    ssh(["hatchery", "template", "add", TEMPLATE, "/run/random.raw", "--format", "raw"], timeout=600)
    ssh(["rm", "/run/random.raw"])
    api.put_nvme(demo.CLIENT, NvmeSpec(address=demo.GUEST_ADDRESS, port=PORT, host_nqn=HOST_NQN))
    key = api.issue_nvme_key(demo.CLIENT, NvmeKeyRequest()).key.get_secret_value()
    clones = {}
    for name, client, protocol in (
        (DEVICE, LOCAL_CLIENT, Protocol.NBD),
        (UNIX, LOCAL_CLIENT, Protocol.NBD),
        (NBD, demo.CLIENT, Protocol.NBD),
        (NVME, demo.CLIENT, Protocol.NVME_TCP),
    ):
        api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=None, learn=False))
        clones[name] = api.attach(name, client, protocol)
    nbd = ssh(["hatchery-attach", str(clones[NBD].uri)], timeout=300).stdout.strip()
    view = clones[NVME].nvme
    if view is None:
        raise CannotTell("NVMe/TCP cannot be measured", why="the clone is not offered over it")
    where = ["--transport=tcp", f"--traddr={demo.GUEST_ADDRESS}", f"--trsvcid={PORT}", f"--nqn={view.nqn}"]
    host = [f"--hostnqn={HOST_NQN}", f"--hostid={HOST_NQN.rpartition(':')[2]}", f"--dhchap-secret={key}"]
    ssh(["nvme", "connect", *where, *host], timeout=300)
    until(lambda: ssh(["test", "-b", view.device], check=False).returncode == 0, view.device, deadline=300, interval=1)
    return {DEVICE: clones[DEVICE].device, UNIX: str(clones[UNIX].uri), NBD: nbd, NVME: view.device}


def _reads_of_backend(on: Deployed, device: str) -> int:
    """Read a device; bytes that the backend was read for."""
    before = on.client.counters().backend.read_bytes
    on.vm.ssh(["dd", f"if={device}", "of=/dev/null", "bs=64k", "iflag=direct", "status=none"], timeout=600)
    return on.client.counters().backend.read_bytes - before


def _machine(on: Deployed) -> str:
    kernel = on.vm.ssh(["uname", "-r"]).stdout.strip()
    tool = on.vm.ssh(["qemu-img", "--version"]).stdout.splitlines()[0].split("(")[0].strip()
    how = "emulated, without KVM" if qemu.accelerator().emulated else "with KVM"
    return f"kernel {kernel}, {tool}, {on.vm.hardware.cpus} processors of {os.cpu_count()} here, in QEMU, {how}"


def check_hits(found: Found) -> Found:
    """The same, if the reads were hits. Raises CannotTell. Pure."""
    read = sum(turn.reads for turn in found.turns) * fabric_reader.BLOCK
    if found.backend_bytes > read / 100:
        why = f"{found.backend_bytes} of {read} bytes came from the backend"
        raise CannotTell("reads that hit cannot be measured", why=why, hint="run it again")
    return found


def rates(found: Found, target: str, depth: int) -> list[float]:
    """Reads a second of each turn. Pure."""
    return [turn.reads / turn.seconds for turn in found.turns if (turn.target, turn.depth) == (target, depth)]


def microseconds(found: Found, target: str, depth: int) -> dict[str, float]:
    """Of processor time that a read costs, by who has them, the medians; and the share of all without work. Pure."""
    mine = [turn for turn in found.turns if (turn.target, turn.depth) == (target, depth)]
    costs: dict[str, list[float]] = {}
    for turn in mine:
        cost = dict(turn.cost)
        every, idle = cost.pop("all"), cost.pop("idle")
        rest = max(0.0, every - idle - sum(cost.values()))
        for name, value in {**cost, "others": rest}.items():
            costs.setdefault(name, []).append(1e6 * value / turn.reads)
        costs.setdefault("idle", []).append(idle / every if every else 0.0)
    return {name: median(values) for name, values in costs.items()}


def told(found: Found) -> list[str]:
    """What each gave and what that cost, in a line each. Pure."""
    return [
        f"{target}, {depth} at a time: {median(rates(found, target, depth)):.0f}/s; {_cost(found, target, depth)}"
        for depth in DEPTHS
        for target in (DEVICE, UNIX, NBD, NVME)
    ]


def _cost(found: Found, target: str, depth: int) -> str:
    costs = microseconds(found, target, depth)
    idle = costs.pop("idle")
    each = ", ".join(f"{name} {value:.0f}" for name, value in costs.items() if value >= 0.5)
    return f"{sum(costs.values()):.0f} us of processor time a read ({each}), the processors {idle:.0%} idle"


def rows(found: Found) -> tuple[Row, ...]:
    """The rows. Pure."""
    return (
        *(_unix(name, found, depth, bound) for name, depth, bound in zip(UNIX_NAMES, DEPTHS, (0.55, 0.4), strict=True)),
        *(_fabric(name, found, depth) for name, depth in zip(FABRIC_NAMES, DEPTHS, strict=True)),
    )


def _unix(name: str, found: Found, depth: int, bound: float) -> Row:
    return Row(
        name,
        paired(rates(found, UNIX, depth), rates(found, DEVICE, depth)),
        "ratio",
        f"4 KiB reads a second that hit, {_asked(depth)}, over the unix socket of the local client against the clone's"
        f" device; {_manner(found)}. Over the socket {_cost(found, UNIX, depth)}; of the device"
        f" {median(rates(found, DEVICE, depth)):.0f} a second, {_cost(found, DEVICE, depth)}",
        at_least(bound),
        _runs(found, depth, (DEVICE, UNIX)),
    )


def _fabric(name: str, found: Found, depth: int) -> Row:
    return Row(
        name,
        paired(rates(found, NVME, depth), rates(found, NBD, depth)),
        "ratio",
        f"4 KiB reads a second that hit, {_asked(depth)}, of /dev/nvmeXnY over NVMe/TCP against /dev/nbdX of"
        " hatchery-attach, the kernel's own clients both, by TCP on the loopback of the built appliance;"
        f" {_manner(found)}. Where the processors are not idle, their time bounds it, else the wait for wake-ups and"
        f" the drive: over NVMe/TCP {_cost(found, NVME, depth)}; over NBD {_cost(found, NBD, depth)}",
        None,
        _runs(found, depth, (DEVICE, NBD, NVME)),
    )


def _asked(depth: int) -> str:
    return "one at a time" if depth == 1 else f"{depth} at a time"


def _manner(found: Found) -> str:
    return (
        "of clones of a template, scattered over 48 MiB, by `qemu-img bench` (devices by the kernel's AIO, O_DIRECT)"
        f" on the appliance, which has no fio; they take turns, median of the ratios of the pairs ({found.machine})"
    )


def _runs(found: Found, depth: int, targets: Sequence[str]) -> dict[str, Sequence[float]]:
    return {
        **{f"{each}, requests/s": rates(found, each, depth) for each in targets},
        **{f"{each}, us of processor time a read": _costs(found, each, depth) for each in targets},
    }


def _costs(found: Found, target: str, depth: int) -> Sequence[float]:
    mine = [turn for turn in found.turns if (turn.target, turn.depth) == (target, depth)]
    return [1e6 * max(0.0, turn.cost["all"] - turn.cost["idle"]) / turn.reads for turn in mine]
