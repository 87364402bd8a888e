"""The kernel's NVMe target: planned from what it has, changed step by step, and what is not ours let alone."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import nvme_target
from appliance.errors import Unhealthy
from appliance.host import nvmet, nvmet_request
from appliance.host.nvmet import Found, Host, Ours, Port, Subsystem, Target, Wanted
from appliance.host.nvmet_request import Files, Outcome, Request
from tests.unit.model_nvmet import ModelTarget

HOSTS = (Host("nqn.2020-01.org.example:hv1", "DHHC-1:01:one:"), Host("nqn.2020-01.org.example:hv2", "DHHC-1:01:two:"))
PORTS = (Port(18433, "192.0.2.1", 4420), Port(18434, "2001:db8::1", 4421))


def disk(number: int, host: int = 1) -> Subsystem:
    return Subsystem(
        f"nqn.2014-08.org.nvmexpress:uuid:{number}",
        f"serial{number}",
        f"uuid-{number}",
        f"/dev/mapper/hatchery-clone-{number}",
        HOSTS[host - 1].nqn,
        PORTS[host - 1].number,
    )


WANTED = Wanted(HOSTS, PORTS, (disk(1), disk(2, host=2)))


@pytest.fixture
def target(tmp_path: Path) -> ModelTarget:
    return ModelTarget(tmp_path)


def folder(target: ModelTarget) -> Path:
    assert target.folder is not None
    return target.folder.root


def steps(target: ModelTarget) -> list[str]:
    """What was done since it was asked last."""
    assert target.folder is not None
    taken, target.folder.steps = target.folder.steps, []
    return taken


def test_a_disk_is_open_to_its_host_by_its_port_and_to_nobody_else(target: ModelTarget) -> None:
    assert target.apply(WANTED) == Outcome()
    found = target.look()
    assert found.hosts == {host.nqn: host.key for host in HOSTS}
    assert found.ports == {18433: ("192.0.2.1", "4420"), 18434: ("2001:db8::1", "4421")}
    for each in WANTED.subsystems:
        there = found.subsystems[each.nqn]
        assert (there.open_to_all, set(there.hosts), set(there.ports)) == (False, {each.host}, {each.port})
        assert there.namespaces == {"1": (each.device, each.uuid, True)}
        assert there.is_as(each)
    root = folder(target)
    assert (root / "ports/18434/addr_adrfam").read_text(encoding="utf-8") == "ipv6"
    assert (root / "subsystems" / disk(1).nqn / "attr_serial").read_text(encoding="utf-8") == "serial1"


def test_a_port_has_a_disk_only_when_all_else_of_it_is_set(target: ModelTarget) -> None:
    target.apply(WANTED)
    taken = steps(target)
    (linked,) = (n for n, step in enumerate(taken) if step.startswith(f"link ports/18433/subsystems/{disk(1).nqn}"))
    assert all(n <= linked for n, step in enumerate(taken) if disk(1).nqn in step)
    hidden = taken.index(f"hide hosts/{HOSTS[0].nqn}/dhchap_key")
    assert taken[hidden:][2].startswith(f"write hosts/{HOSTS[0].nqn}/dhchap_key"), (
        "nobody may read it even for a moment"
    )


def test_all_disks_are_there_before_a_port_listens(target: ModelTarget) -> None:
    target.apply(replace(WANTED, subsystems=(*WANTED.subsystems, disk(3), disk(4))))
    taken = steps(target)
    first = min(n for n, step in enumerate(taken) if step.startswith("link ports/"))
    assert all(step.startswith("link ports/") for step in taken[first:]), taken[first:]


def test_keys_are_in_no_log_and_for_root_alone(target: ModelTarget) -> None:
    target.apply(WANTED)
    assert not [step for step in steps(target) if "DHHC" in step]
    assert "DHHC" not in repr(WANTED)
    assert (folder(target) / "hosts" / HOSTS[0].nqn / "dhchap_key").stat().st_mode & 0o777 == 0o600


def test_what_is_as_it_should_be_is_not_touched(target: ModelTarget) -> None:
    target.apply(WANTED)
    steps(target)
    target.apply(WANTED)
    assert steps(target) == []
    more = replace(WANTED, subsystems=(*WANTED.subsystems, disk(3)))
    target.apply(more)
    assert [step for step in steps(target) if disk(3).nqn not in step] == []


def test_another_key_changes_the_key_alone(target: ModelTarget) -> None:
    target.apply(WANTED)
    steps(target)
    target.apply(replace(WANTED, hosts=(replace(HOSTS[0], key="DHHC-1:01:new:"), HOSTS[1])))
    assert {step.split()[1] for step in steps(target)} == {
        f"hosts/{HOSTS[0].nqn}/{name}" for name in ("dhchap_key", "dhchap_dhgroup")
    }
    assert target.look().hosts[HOSTS[0].nqn] == "DHHC-1:01:new:"


def test_what_nobody_wants_any_more_goes_with_what_it_alone_needed(target: ModelTarget) -> None:
    target.apply(WANTED)
    target.apply(Wanted(HOSTS[1:], PORTS[1:], WANTED.subsystems[1:]))
    found = target.look()
    assert (set(found.hosts), set(found.ports), set(found.subsystems)) == ({HOSTS[1].nqn}, {18434}, {disk(2).nqn})
    target.apply(Wanted())
    assert target.look() == Found({}, {}, {})


def test_a_port_that_moves_takes_its_disks_along(target: ModelTarget) -> None:
    target.apply(WANTED)
    moved = replace(WANTED, ports=(replace(PORTS[0], port=5000), PORTS[1]))
    assert target.apply(moved) == Outcome()
    assert target.look().ports[18433] == ("192.0.2.1", "5000")
    assert all(target.look().subsystems[each.nqn].is_as(each) for each in WANTED.subsystems)


def test_a_disk_that_differs_is_made_anew(target: ModelTarget) -> None:
    target.apply(WANTED)
    other = replace(disk(1), device="/dev/mapper/another")
    target.apply(replace(WANTED, subsystems=(other, disk(2, host=2))))
    assert target.look().subsystems[disk(1).nqn].is_as(other)


def test_what_others_made_is_neither_changed_nor_removed(target: ModelTarget) -> None:
    root = folder(target)
    for step in (
        nvmet.Step(nvmet.Verb.MAKE, "subsystems/theirs"),
        nvmet.Step(nvmet.Verb.MAKE, f"subsystems/{disk(1).nqn}"),
        nvmet.Step(nvmet.Verb.MAKE, f"hosts/{HOSTS[1].nqn}"),
        nvmet.Step(nvmet.Verb.MAKE, "ports/1"),
    ):
        assert target.folder is not None
        target.folder.take(step)
    outcome = target.apply(WANTED)
    assert set(outcome.problems) == {disk(1).nqn, f"host {HOSTS[1].nqn}"}
    target.apply(Wanted())
    found = target.look()
    assert set(found.subsystems) == {"theirs", disk(1).nqn}
    assert (set(found.hosts), set(found.ports)) == ({HOSTS[1].nqn}, {1})
    assert not list((root / "subsystems" / disk(1).nqn / "allowed_hosts").iterdir())


def test_one_that_fails_does_not_keep_the_others_down(target: ModelTarget) -> None:
    assert target.folder is not None
    target.folder.refuse = {f"subsystems/{disk(1).nqn}/namespaces/1/enable": errno.ENOENT}
    outcome = target.apply(WANTED)
    assert set(outcome.problems) == {disk(1).nqn}
    assert target.look().subsystems[disk(2, host=2).nqn].is_as(disk(2, host=2))
    # What was begun is known for ours, and made whole by the next request.
    target.folder.refuse = {}
    assert target.apply(WANTED) == Outcome()
    assert target.look().subsystems[disk(1).nqn].is_as(disk(1))


def test_a_host_that_gets_no_key_gets_no_disk(target: ModelTarget) -> None:
    assert target.folder is not None
    target.folder.refuse = {f"write hosts/{HOSTS[0].nqn}/dhchap_key": errno.EINVAL}
    outcome = target.apply(WANTED)
    assert set(outcome.problems) == {f"host {HOSTS[0].nqn}", disk(1).nqn}, "the kernel would ask it for none"
    assert set(target.look().subsystems) == {disk(2, host=2).nqn}


@pytest.mark.parametrize("step", range(24))
def test_ended_at_any_step_it_is_made_whole_by_the_next_request(target: ModelTarget, step: int) -> None:
    assert target.folder is not None
    count = 0

    def dying(_: nvmet.Step) -> None:
        nonlocal count
        if count == step:
            raise KeyboardInterrupt
        count += 1

    target.folder.before = dying
    with pytest.raises(KeyboardInterrupt):
        target.apply(WANTED)
    target.folder.before = lambda _: None
    assert target.apply(WANTED) == Outcome()
    assert all(target.look().subsystems[each.nqn].is_as(each) for each in WANTED.subsystems)
    target.apply(Wanted())
    assert target.look() == Found({}, {}, {})


def test_a_disk_in_use_stays_and_says_by_whom(target: ModelTarget) -> None:
    assert target.folder is not None
    target.apply(WANTED)
    target.folder.used, target.peers = {disk(1).nqn}, {4420: ("192.0.2.9:40000",)}
    rest = Wanted(HOSTS[1:], PORTS[1:], WANTED.subsystems[1:])
    outcome = target.apply(rest, [disk(1).nqn])
    assert outcome == Outcome(in_use={disk(1).nqn: ("192.0.2.9:40000",)})
    assert target.look().subsystems[disk(1).nqn].is_as(disk(1))
    assert set(target.look().ports) == {18433, 18434}
    # By force, whoever is connected.
    assert target.apply(rest) == Outcome()
    assert disk(1).nqn not in target.look().subsystems


def test_a_disk_that_no_host_ever_looked_at_is_not_in_use(target: ModelTarget) -> None:
    target.apply(WANTED)
    target.peers = {4420: ("192.0.2.9:40000",)}
    assert target.apply(Wanted(HOSTS[1:], PORTS[1:], WANTED.subsystems[1:]), [disk(1).nqn]) == Outcome()


def test_who_comes_while_it_is_closed_is_seen(target: ModelTarget) -> None:
    assert target.folder is not None
    target.apply(WANTED)
    target.folder.used = {disk(1).nqn}
    answers = iter([(), ("192.0.2.9:40000",)])
    files = target.files
    files.request.write_text(nvmet_request.render(Request(Wanted(), frozenset({disk(1).nqn}))), encoding="utf-8")
    outcome = nvme_target.serve(files, target.folder, lambda _: next(answers))
    assert outcome.in_use == {disk(1).nqn: ("192.0.2.9:40000",)}
    assert target.look().subsystems[disk(1).nqn].is_as(disk(1)), "its host may come in again"


def test_all_goes_when_the_store_goes_down(target: ModelTarget) -> None:
    assert target.folder is not None
    target.apply(WANTED)
    target.folder.take(nvmet.Step(nvmet.Verb.MAKE, "subsystems/theirs"))
    assert nvmet_request.clear(target.files, target.folder) == {}
    assert set(target.look().subsystems) == {"theirs"}
    assert not target.files.ours.exists()


def test_a_kernel_without_a_target_is_told_of(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.request.write_text(nvmet_request.render(Request(WANTED)), encoding="utf-8")
    assert nvme_target.serve(files, Target(tmp_path / "none"), lambda _: ()).missing
    assert nvmet_request.read_outcome(files).missing == nvme_target.MISSING
    assert nvmet.look(tmp_path / "none") == Found({}, {}, {})
    assert nvmet_request.clear(files, Target(tmp_path / "none")) == {}


def test_a_request_is_read_as_it_was_written(tmp_path: Path) -> None:
    asked = Request(WANTED, frozenset({disk(1).nqn}))
    assert nvmet_request.parse(nvmet_request.render(asked)) == asked
    for damaged in ("", "{}", '{"wanted": [], "gently": []}', "[1]"):
        with pytest.raises(Unhealthy):
            nvmet_request.parse(damaged)
    with pytest.raises(Unhealthy):
        nvmet_request.read_outcome(Files(tmp_path))
    assert nvmet_request.read_ours(Files(tmp_path)) == Ours()
