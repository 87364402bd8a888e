"""``nvme-target``: makes the kernel's NVMe target offer what hatcheryd asked for, and ends.

It plans from what the target has, so that it may be ended at any step and asked again, and changes nothing that
somebody else made there.
"""

import logging
from collections.abc import Callable, Iterator

from appliance.config import Paths
from appliance.errors import HatcheryError
from appliance.host import netlink, nvmet, nvmet_request
from appliance.host.nvmet import Found, Ours, Step, Target, Verb, Wanted
from appliance.host.nvmet_request import Files, Outcome, Request

log = logging.getLogger(__name__)

Peers = Callable[[int], tuple[str, ...]]
"""Who is connected to a TCP port of this machine."""

MISSING = "the kernel's module nvmet is not loaded, or it has none"


def serve(files: Files, target: Target, peers: Peers) -> Outcome:
    """Do what was asked; its outcome is left in a file, too. Raises Unhealthy, CannotTell."""
    request = nvmet_request.parse(files.request.read_text(encoding="utf-8"))
    outcome = _serve(request, files, target, peers) if nvmet.there(target.root) else Outcome(missing=MISSING)
    nvmet_request.write_outcome(files, outcome)
    return outcome


def _serve(request: Request, files: Files, target: Target, peers: Peers) -> Outcome:
    wanted, found = request.wanted, nvmet.look(target.root)
    taken = nvmet.foreign(wanted, found, nvmet_request.read_ours(files))
    ours = _with(nvmet_request.read_ours(files), wanted, found)
    # Before anything of these names is made, so that what is made is known for ours whenever this ends.
    nvmet_request.write_ours(files, ours)
    in_use = dict(_close(request.gently & ours.subsystems, found, target, peers))
    now = nvmet.look(target.root)
    tasks = nvmet.plan(wanted, now, ours, frozenset(in_use))
    problems = nvmet.carry_out(tasks, target, lambda step: log.info("%s", step))
    for name, words in problems.items():
        log.error("%s: %s", name, words)
    left = nvmet.look(target.root)
    nvmet_request.write_ours(
        files,
        Ours(ours.hosts & set(left.hosts), ours.ports & set(left.ports), ours.subsystems & set(left.subsystems)),
    )
    return Outcome(problems={**taken, **problems}, in_use=in_use)


def _with(ours: Ours, wanted: Wanted, found: Found) -> Ours:
    """What was ours, and what will be: all that is wanted and that nobody has made yet."""
    return Ours(
        ours.hosts | ({each.nqn for each in wanted.hosts} - set(found.hosts)),
        ours.ports | ({each.number for each in wanted.ports} - set(found.ports)),
        ours.subsystems | ({each.nqn for each in wanted.subsystems} - set(found.subsystems)),
    )


def _close(gently: frozenset[str], found: Found, target: Target, peers: Peers) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Let nobody in any more where nobody is; the others, and who is connected to their ports.

    Who comes between the question and the closing is seen by asking once more.
    """
    for nqn in sorted(gently & set(found.subsystems)):
        before = found.subsystems[nqn]
        if connected := _connected(nqn, found, target, peers):
            yield nqn, connected
            continue
        links = [f"subsystems/{nqn}/allowed_hosts/{host}" for host in sorted(before.hosts)]
        for link in links:
            target.take(Step(Verb.UNLINK, link))
        if connected := _connected(nqn, found, target, peers):
            for link, host in zip(links, sorted(before.hosts), strict=True):
                target.take(Step(Verb.LINK, link, f"hosts/{host}"))
            yield nqn, connected


def _connected(nqn: str, found: Found, target: Target, peers: Peers) -> tuple[str, ...]:
    """Who may be connected to a subsystem: who is connected to its port, unless nobody ever looked at it."""
    ports = (int(found.ports[number][1]) for number in sorted(found.subsystems[nqn].ports) if number in found.ports)
    connected = tuple(peer for port in ports for peer in peers(port))
    return connected if connected and target.was_used(nqn) else ()


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        outcome = serve(
            Files(Paths().nvme), Target(), lambda port: tuple(each.peer for each in netlink.tcp_connections(port))
        )
    except (HatcheryError, OSError) as error:
        raise SystemExit(f"nvme-target: {error}") from error
    if outcome.missing:
        log.error("%s", outcome.missing)


if __name__ == "__main__":
    main()
