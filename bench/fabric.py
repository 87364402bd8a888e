"""The part of ``script/bench access`` that needs the built appliance: NVMe/TCP beside NBD, with the kernel's clients.

User-Mode Linux has no NVMe target. So the appliance runs in QEMU, and its own kernel is the client of either: by
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
from appliance.schema import CloneCreate, NvmeKeyRequest, NvmeSpec
from appliance.wait import until
from bench import demo, deployment, fabric_reader
from bench.deployment import Deployed
from bench.fabric_reader import Plan, Turn
from bench.report import Row, paired

NAMES = ("nvmetcp_over_nbd", "nvmetcp_qd1_over_nbd")
"""The rows, 16 reads at a time and one."""

DEPTHS = (16, 1)
DEVICE, NBD, NVME = "device", "nbd", "nvme-tcp"

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
        with on.steps.step("Attach clones of one template over NBD and over NVMe/TCP"):
            targets = _targets(on)
        with on.steps.step("Read what they share into the cache"):
            until(lambda: _reads_of_backend(on, targets[DEVICE]) == 0, "the clones to be in the cache", deadline=900)
        daemon = on.vm.ssh(["systemctl", "show", f"hatchery-nbd@{demo.CLIENT}", "--property=MainPID", "--value"])
        plan = Plan(targets, DEPTHS, turns, seconds, int(daemon.stdout), SPAN)
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


def _targets(on: Deployed) -> dict[str, str]:
    """A clone's own device, another's by the kernel's NBD client, a third one's by the kernel's NVMe host."""
    ssh, api = on.vm.ssh, on.client
    ssh(["modprobe", "--all", "nbd", "nvme-tcp"])
    # Random, so that it looks like nobody's disk: the appliance's own kernel shows it to the appliance's own udev.
    ssh(["dd", "if=/dev/urandom", "of=/run/random.raw", "bs=1M", f"count={SPAN // MIB}", "status=none"], timeout=300)
    ssh(["hatchery", "template", "add", TEMPLATE, "/run/random.raw", "--format", "raw"], timeout=600)
    ssh(["rm", "/run/random.raw"])
    api.put_nvme(demo.CLIENT, NvmeSpec(address=demo.GUEST_ADDRESS, port=PORT, host_nqn=HOST_NQN))
    key = api.issue_nvme_key(demo.CLIENT, NvmeKeyRequest()).key.get_secret_value()
    clones = {}
    for name, protocol in ((DEVICE, Protocol.NBD), (NBD, Protocol.NBD), (NVME, Protocol.NVME_TCP)):
        api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=None, learn=False))
        clones[name] = api.attach(name, demo.CLIENT, protocol)
    nbd = ssh(["hatchery-attach", str(clones[NBD].uri)], timeout=300).stdout.strip()
    view = clones[NVME].nvme
    if view is None:
        raise CannotTell("NVMe/TCP cannot be measured", why="the clone is not offered over it")
    where = ["--transport=tcp", f"--traddr={demo.GUEST_ADDRESS}", f"--trsvcid={PORT}", f"--nqn={view.nqn}"]
    host = [f"--hostnqn={HOST_NQN}", f"--hostid={HOST_NQN.rpartition(':')[2]}", f"--dhchap-secret={key}"]
    ssh(["nvme", "connect", *where, *host], timeout=300)
    until(lambda: ssh(["test", "-b", view.device], check=False).returncode == 0, view.device, deadline=300, interval=1)
    return {DEVICE: clones[DEVICE].device, NBD: nbd, NVME: view.device}


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
        for target in (DEVICE, NBD, NVME)
    ]


def _cost(found: Found, target: str, depth: int) -> str:
    costs = microseconds(found, target, depth)
    idle = costs.pop("idle")
    each = ", ".join(f"{name} {value:.0f}" for name, value in costs.items() if value >= 0.5)
    return f"{sum(costs.values()):.0f} us of processor time a read ({each}), the processors {idle:.0%} idle"


def rows(found: Found) -> tuple[Row, ...]:
    """The rows. Pure."""
    return tuple(_row(name, found, depth) for name, depth in zip(NAMES, DEPTHS, strict=True))


def _row(name: str, found: Found, depth: int) -> Row:
    def said(target: str) -> str:
        return _cost(found, target, depth)

    ask = "one at a time" if depth == 1 else f"{depth} at a time"
    return Row(
        name,
        paired(rates(found, NVME, depth), rates(found, NBD, depth)),
        "ratio",
        f"4 KiB reads a second that hit, {ask}, of /dev/nvmeXnY over NVMe/TCP against /dev/nbdX of hatchery-attach, the"
        " kernel's own clients both, by TCP on the loopback of the built appliance, of clones of a template; scattered"
        " over 48 MiB, by `qemu-img bench` (the kernel's AIO, O_DIRECT), for it has no fio; they take turns, median of"
        f" the ratios of the pairs ({found.machine}). Where the processors are not idle, their time bounds it, else"
        f" the wait for wake-ups and the drive: over NVMe/TCP {said(NVME)}; over NBD {said(NBD)}; of the clone's device"
        f" itself {median(rates(found, DEVICE, depth)):.0f} a second, {said(DEVICE)}",
        None,
        {
            **{f"{each}, requests/s": rates(found, each, depth) for each in (DEVICE, NBD, NVME)},
            **{f"{each}, us of processor time a read": _costs(found, each, depth) for each in (DEVICE, NBD, NVME)},
        },
    )


def _costs(found: Found, target: str, depth: int) -> Sequence[float]:
    mine = [turn for turn in found.turns if (turn.target, turn.depth) == (target, depth)]
    return [1e6 * max(0.0, turn.cost["all"] - turn.cost["idle"]) / turn.reads for turn in mine]
