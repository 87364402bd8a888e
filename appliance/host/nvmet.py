"""The kernel's NVMe target: what it offers, read from configfs; the steps to what it should offer; those steps taken.

Sources: Linux 6.12, drivers/nvme/target/configfs.c and auth.c; NVMe over Fabrics 1.1, sections 7.6 (the discovery log)
and NVM Express Base 2.0, 8.13 (DH-HMAC-CHAP). The target has a folder for each host that may be let in, each port that
it listens on and each subsystem; links between them say which host may use which subsystem through which port. It
listens on a port as long as a subsystem is linked to it.

What others made there is neither changed nor removed. What is ours is known by ``ours``: names that were noted before
anything of that name was made.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from appliance.errors import Unhealthy

ROOT = Path("/sys/kernel/config/nvmet")
"""There while the kernel's module ``nvmet`` is loaded."""

MODEL = "Hatchery"
"""What hosts show as the model of their disk."""

GROUP = "ffdhe2048"
"""The group of DH-HMAC-CHAP's key exchange. Without one, who listens in could guess keys offline."""

_NAMESPACE = 1


@dataclass(frozen=True, slots=True)
class Host:
    """Somebody who may be let in, by its name and its key (``DHHC-1:...``)."""

    nqn: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Port:
    """Where the target listens. ``number`` names its folder."""

    number: int
    address: str
    port: int

    @property
    def family(self) -> str:
        """The kernel's word for the kind of the address."""
        return "ipv6" if ":" in self.address else "ipv4"


@dataclass(frozen=True, slots=True)
class Subsystem:
    """A disk that one host may use through one port."""

    nqn: str
    serial: str
    uuid: str
    device: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that we want the target to offer."""

    hosts: tuple[Host, ...] = ()
    ports: tuple[Port, ...] = ()
    subsystems: tuple[Subsystem, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundSubsystem:
    """A subsystem as it is: hosts and ports that are linked to it, and its namespaces with device, UUID and whether
    they are enabled."""

    open_to_all: bool
    hosts: frozenset[str]
    ports: frozenset[int]
    namespaces: Mapping[str, tuple[str, str, bool]]

    def is_as(self, wanted: Subsystem) -> bool:
        """Whether it is what is wanted, all of it."""
        disk = {str(_NAMESPACE): (wanted.device, wanted.uuid, True)}
        right = self.hosts == {wanted.host} and self.ports == {wanted.port}
        return right and not self.open_to_all and dict(self.namespaces) == disk


@dataclass(frozen=True, slots=True)
class Found:
    """All that the target has, whoever made it. A host without a key has an empty one."""

    hosts: Mapping[str, str]
    ports: Mapping[int, tuple[str, str]]
    subsystems: Mapping[str, FoundSubsystem]


@dataclass(frozen=True, slots=True)
class Ours:
    """Names of what we made, or were about to make."""

    hosts: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()
    subsystems: frozenset[str] = frozenset()


class Verb(StrEnum):
    """What a step does to a path below the target's folder."""

    MAKE = "make"
    REMOVE = "remove"
    HIDE = "hide"
    WRITE = "write"
    LINK = "link"
    UNLINK = "unlink"


@dataclass(frozen=True, slots=True)
class Step:
    """One change: of ``path``, to ``value`` (what is written, or what the link shows)."""

    verb: Verb
    path: str
    value: str = field(default="", repr=False)
    secret: bool = False

    def __str__(self) -> str:
        shown = "(secret)" if self.secret else self.value
        return f"{self.verb} {self.path} {shown}".rstrip()


@dataclass(frozen=True, slots=True)
class Task:
    """Steps that belong together: the first that fails ends them.

    ``name`` is of what they are about; without what it ``needs``, by name, none is taken.
    """

    name: str
    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()


# --- what there is


def there(root: Path = ROOT) -> bool:
    """Whether the kernel has its target at hand."""
    return root.is_dir()


def look(root: Path = ROOT) -> Found:
    """What the target has; nothing where there is none. Raises Unhealthy when it cannot be read."""
    if not there(root):
        return Found({}, {}, {})
    try:
        return Found(
            hosts={each.name: _key(each) for each in _folders(root / "hosts")},
            ports={
                int(each.name): (_read(each / "addr_traddr"), _read(each / "addr_trsvcid"))
                for each in _folders(root / "ports")
            },
            subsystems=dict(_subsystems(root)),
        )
    except (OSError, ValueError) as error:
        raise Unhealthy("the kernel's NVMe target cannot be read", why=str(error)) from error


def _subsystems(root: Path) -> Iterator[tuple[str, FoundSubsystem]]:
    linked = {int(port.name): _names(port / "subsystems") for port in _folders(root / "ports")}
    for folder in _folders(root / "subsystems"):
        namespaces = {
            each.name: (
                _read(each / "device_path"),
                _read(each / "device_uuid"),
                _read(each / "enable") == "1",
            )
            for each in _folders(folder / "namespaces")
        }
        yield (
            folder.name,
            FoundSubsystem(
                open_to_all=_read(folder / "attr_allow_any_host") == "1",
                hosts=_names(folder / "allowed_hosts"),
                ports=frozenset(number for number, names in linked.items() if folder.name in names),
                namespaces=namespaces,
            ),
        )


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir())


def _names(path: Path) -> frozenset[str]:
    return frozenset(each.name for each in path.iterdir())


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _key(host: Path) -> str:
    # Without CONFIG_NVME_TARGET_AUTH there is no such file, and nobody but root may read it.
    try:
        return _read(host / "dhchap_key")
    except (FileNotFoundError, PermissionError):
        return ""


# --- what is to be done. Pure.


def foreign(wanted: Wanted, found: Found, ours: Ours) -> Mapping[str, str]:
    """What is wanted under a name that somebody else has taken: that name, and why it cannot be had."""
    taken = {
        **{f"host {each.nqn}": each.nqn in found.hosts and each.nqn not in ours.hosts for each in wanted.hosts},
        **{
            f"port {each.number}": each.number in found.ports and each.number not in ours.ports for each in wanted.ports
        },
        **{each.nqn: each.nqn in found.subsystems and each.nqn not in ours.subsystems for each in wanted.subsystems},
    }
    return {name: "it is there already, and not Hatchery's" for name, is_taken in taken.items() if is_taken}


def plan(wanted: Wanted, found: Found, ours: Ours, spared: frozenset[str] = frozenset()) -> tuple[Task, ...]:
    """The tasks that lead from ``found`` to ``wanted``: what goes first, then what comes.

    What is not ours stays as it is, and so do the ``spared`` subsystems, with their hosts and ports.
    """
    taken = foreign(wanted, found, ours)
    hosts = {each.nqn: each for each in wanted.hosts if f"host {each.nqn}" not in taken}
    ports = {each.number: each for each in wanted.ports if f"port {each.number}" not in taken}
    disks = {
        each.nqn: each
        for each in wanted.subsystems
        if each.nqn not in taken and each.host in hosts and each.port in ports
    }
    moved = {
        number
        for number, each in ports.items()
        if number in found.ports and found.ports[number] != (each.address, str(each.port))
    }
    same = {nqn for nqn, disk in disks.items() if nqn in found.subsystems and found.subsystems[nqn].is_as(disk)}
    kept = {nqn for nqn in same | spared if not found.subsystems[nqn].ports & moved}
    fresh = [host for host in hosts.values() if found.hosts.get(host.nqn) != host.key]
    coming = [disk for nqn, disk in disks.items() if nqn not in kept]
    return (
        *_going(found, ours, kept, frozenset(hosts), frozenset(ports) - moved),
        *(Task(f"host {each.nqn}", tuple(_host(each, fresh=each.nqn not in found.hosts))) for each in fresh),
        *(
            Task(f"port {number}", tuple(_port(each)))
            for number, each in ports.items()
            if number in moved or number not in found.ports
        ),
        # A host that has no key would be let in without one.
        *(Task(each.nqn, tuple(_subsystem(each)), (f"host {each.host}", f"port {each.port}")) for each in coming),
        # All at once, at the end: with the first of them the port listens, and a host that comes back and does not find
        # its disk gives it up for ever.
        *(Task(each.nqn, (_link(each),)) for each in coming),
    )


def _going(
    found: Found, ours: Ours, kept: Collection[str], hosts: frozenset[str], ports: frozenset[int]
) -> Iterator[Task]:
    """What of ours goes: all but the ``kept`` subsystems, with what they need, and these ``hosts`` and ``ports``."""
    stay = [found.subsystems[nqn] for nqn in kept]
    for nqn in sorted((ours.subsystems & set(found.subsystems)) - set(kept)):
        yield Task(nqn, tuple(_removal(nqn, found.subsystems[nqn])))
    for number in sorted((ours.ports & set(found.ports)) - ports):
        if not any(number in each.ports for each in stay):
            yield Task(f"port {number}", (Step(Verb.REMOVE, f"ports/{number}"),))
    for nqn in sorted((ours.hosts & set(found.hosts)) - hosts):
        if not any(nqn in each.hosts for each in stay):
            yield Task(f"host {nqn}", (Step(Verb.REMOVE, f"hosts/{nqn}"),))


def _removal(nqn: str, found: FoundSubsystem) -> Iterator[Step]:
    # Without its port all connections to it end; a namespace that is disabled has let go of its device.
    for number in sorted(found.ports):
        yield Step(Verb.UNLINK, f"ports/{number}/subsystems/{nqn}")
    for number_, (_, _, enabled) in sorted(found.namespaces.items()):
        if enabled:
            yield Step(Verb.WRITE, f"subsystems/{nqn}/namespaces/{number_}/enable", "0")
        yield Step(Verb.REMOVE, f"subsystems/{nqn}/namespaces/{number_}")
    for host in sorted(found.hosts):
        yield Step(Verb.UNLINK, f"subsystems/{nqn}/allowed_hosts/{host}")
    yield Step(Verb.REMOVE, f"subsystems/{nqn}")


def _host(host: Host, *, fresh: bool) -> Iterator[Step]:
    folder = f"hosts/{host.nqn}"
    if fresh:
        yield Step(Verb.MAKE, folder)
    # The kernel would let everybody on this machine read the key.
    yield Step(Verb.HIDE, f"{folder}/dhchap_key")
    yield Step(Verb.WRITE, f"{folder}/dhchap_dhgroup", GROUP)
    yield Step(Verb.WRITE, f"{folder}/dhchap_key", host.key, secret=True)


def _port(port: Port) -> Iterator[Step]:
    folder = f"ports/{port.number}"
    yield Step(Verb.MAKE, folder)
    yield Step(Verb.WRITE, f"{folder}/addr_trtype", "tcp")
    yield Step(Verb.WRITE, f"{folder}/addr_adrfam", port.family)
    yield Step(Verb.WRITE, f"{folder}/addr_traddr", port.address)
    yield Step(Verb.WRITE, f"{folder}/addr_trsvcid", str(port.port))


def _subsystem(disk: Subsystem) -> Iterator[Step]:
    folder = f"subsystems/{disk.nqn}"
    namespace = f"{folder}/namespaces/{_NAMESPACE}"
    yield Step(Verb.MAKE, folder)
    yield Step(Verb.WRITE, f"{folder}/attr_allow_any_host", "0")
    yield Step(Verb.WRITE, f"{folder}/attr_model", MODEL)
    yield Step(Verb.WRITE, f"{folder}/attr_serial", disk.serial)
    yield Step(Verb.LINK, f"{folder}/allowed_hosts/{disk.host}", f"hosts/{disk.host}")
    yield Step(Verb.MAKE, namespace)
    yield Step(Verb.WRITE, f"{namespace}/device_path", disk.device)
    yield Step(Verb.WRITE, f"{namespace}/device_uuid", disk.uuid)
    yield Step(Verb.WRITE, f"{namespace}/enable", "1")


def _link(disk: Subsystem) -> Step:
    return Step(Verb.LINK, f"ports/{disk.port}/subsystems/{disk.nqn}", f"subsystems/{disk.nqn}")


# --- doing it


class Target:
    """The target's folder, changed step by step."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def take(self, step: Step) -> None:
        """Do what a step says. Raises OSError."""
        path = self.root / step.path
        match step.verb:
            case Verb.MAKE:
                path.mkdir()
            case Verb.REMOVE:
                path.rmdir()
            case Verb.HIDE:
                path.chmod(0o600)
            case Verb.WRITE:
                # Nothing is created: what is not there, this kernel has not.
                handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(handle, step.value.encode("utf-8"))
                finally:
                    os.close(handle)
            case Verb.LINK:
                path.symlink_to(self.root / step.value)
            case Verb.UNLINK:
                path.unlink()

    def was_used(self, nqn: str) -> bool:
        """Whether any host has ever looked at a subsystem since it was made. The kernel does not let the serial
        number change from then on, and this is the only thing in configfs that tells. Raises OSError."""
        path = self.root / "subsystems" / nqn / "attr_serial"
        serial = _read(path)
        try:
            self.take(Step(Verb.WRITE, f"subsystems/{nqn}/attr_serial", serial))
        except OSError:
            return True
        return False


def carry_out(tasks: Iterable[Task], target: Target, say: Callable[[Step], None]) -> dict[str, str]:
    """Take the steps of all tasks; what went wrong, by the tasks' names.

    A task that fails stops those of the same name and those that need it, and no others.
    """
    problems: dict[str, str] = {}
    for task in tasks:
        if task.name in problems:
            continue
        lacking = [name for name in task.needs if name in problems]
        if lacking:
            problems[task.name] = f"{lacking[0]}: {problems[lacking[0]]}"
            continue
        for step in task.steps:
            say(step)
            try:
                target.take(step)
            except OSError as error:
                problems[task.name] = f"{step}: {os.strerror(error.errno or 0)}"
                break
    return problems
