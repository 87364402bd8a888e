"""What the roles refuse and what they accept: before anything is touched, and the same as the appliance."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.config import Config, Part
from appliance.errors import InvalidInput, Refused
from appliance.run import Runner
from appliance.service.nvme_doors import check_nqn
from appliance.store import backend, nvme, setup
from tests.lint.files import ROOT

BIN = Path(sys.executable).parent
BY_ID = "/dev/disk/by-id/"


def disks(count: int, kind: str = "ata-") -> list[str]:
    return [f"{BY_ID}{kind}{number}" for number in range(count)]


def client(**change: Any) -> dict[str, list[dict[str, Any]]]:
    return {"nbd_access_clients": [{"name": "a", "address": "192.0.2.1", **change}]}


def clients(*each: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {"nbd_access_clients": [{"name": f"c{n}", "address": "192.0.2.1", **one} for n, one in enumerate(each)]}


HOST = "nqn.2014-08.org.nvmexpress:uuid:6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10"


def doors(*each: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Clients with a way over NVMe/TCP each, on ports and for hosts of their own unless something else is said."""
    usual = [{"address": "192.0.2.1", "port": 4420 + n, "host_nqn": f"{HOST}-{n}"} for n in range(len(each))]
    return clients(*({"port": 10809 + n, "nvme": {**usual[n], **one}} for n, one in enumerate(each)))


def template(**item: Any) -> dict[str, list[dict[str, Any]]]:
    return {"clone_templates_items": [{"name": "t", "format": "raw", **item}]}


def readme_items() -> dict[str, Any]:
    """What the role's page shows, with what `script/image guest` built among it."""
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "roles/clone_templates/README.md").read_text(), re.DOTALL)
    assert found is not None
    shown: dict[str, Any] = yaml.safe_load(found.group(1))
    assert "script/image guest --where" in shown["clone_templates_items"][-1]["src"]
    return shown


GOOD: dict[str, Any] = {
    # No module can be run: a role that accepts its variables gets as far as trying.
    "ansible_connection": "local",
    "ansible_python_interpreter": "/nonexistent/python",
    "ansible_host": "127.0.0.1",
    "ansible_port": 1,
    "nvme_cache_devices": disks(1, "nvme-"),
    "backend_raid_disks": disks(3),
    "clone_templates_items": [{"name": "t", "format": "raw", "url": "http://images.example.net/t.raw"}],
    "hypervisor_certificate": "/nonexistent",
    "hypervisor_appliance": "nobody@127.0.0.1",
    "hypervisor_ssh_options": "-p 1 -o BatchMode=yes",
    "hypervisor_client": "hv1",
}

ACCEPTED: dict[str, dict[str, Any]] = {
    "nvme_cache: one drive": {},
    "nvme_cache: two drives": {"nvme_cache_devices": disks(2, "nvme-")},
    "nvme_cache: sizes": {"nvme_cache_meta_size": "18 GiB", "nvme_cache_fast_size": 1073741824},
    "nvme_cache: wiping": {"nvme_cache_wipe": True, "nvme_cache_wipe_serials": ["S1"]},
    "backend_raid: three disks": {},
    "backend_raid: a mirror": {"backend_raid_level": "raid1", "backend_raid_disks": disks(2)},
    "backend_raid: raid6": {"backend_raid_level": "raid6", "backend_raid_disks": disks(4)},
    "backend_raid: raid10": {"backend_raid_level": "raid10", "backend_raid_disks": disks(5)},
    "backend_raid: smallest chunk": {"backend_raid_chunk_kib": 4},
    "backend_raid: wiping": {"backend_raid_wipe": True, "backend_raid_wipe_serials": ["1", "2"]},
    "clone_store: nothing set": {},
    "clone_store: largest values": {
        "clone_store_block_kib": 1024,
        "clone_store_reserve_percent": 50,
        "clone_store_overcommit_percent": 1000,
        "clone_store_state_size": "1 GiB",
    },
    "clone_store: writeback": {"clone_store_cache_mode": "writeback", "nvme_cache_devices": disks(2, "nvme-")},
    "nbd_access: clients": clients({}, {"port": 10810}, {"address": "::1"}, {"address": "::", "port": 65535}),
    "nbd_access: a client that has no nvme": clients({"nvme": None}, {"port": 10810}),
    "nbd_access: doors": doors({}, {"host_nqn": "nqn.2020-01.org.example"}, {"address": "fd00::1", "port": 65535}),
    "nbd_access: a door on the usual port": clients({"nvme": {"address": "192.0.2.1", "host_nqn": HOST}}),
    "clone_templates: a url": {},
    "clone_templates: a file": template(src="images/t.raw", sha256="0aF" * 21 + "0"),
    "clone_templates: a path": template(path="/srv/t.raw"),
    "clone_templates: a boot set": template(path="/srv/t.raw", boot_set="images/t.boot-set"),
    "clone_templates: the items of its page": readme_items(),
    "hypervisor: an appliance that is asked": {},
    "hypervisor: NVMe/TCP besides": {"hypervisor_nvme_key": "/nonexistent", "hypervisor_nvme_host_nqn": HOST},
    "hypervisor: NVMe/TCP alone, by an NQN without a UUID": {
        "hypervisor_certificate": "",
        "hypervisor_nvme_key": "/nonexistent",
        "hypervisor_nvme_host_nqn": "nqn.2020-01.org.example:hv1",
        "hypervisor_nvme_host_id": HOST[-36:],
    },
    "hypervisor: files elsewhere": {
        "hypervisor_directory": "/srv/certificate",
        "hypervisor_list_file": "/srv/a/clones",
        "hypervisor_cli_directory": "/opt/hatchery/lib",
        "hypervisor_cli_programs": "/opt/hatchery/bin",
    },
}

ONCE, TWICE = "must name one drive or two", "wiping takes both"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nvme_cache: no drive": ({"nvme_cache_devices": []}, ONCE),
    "nvme_cache: three drives": ({"nvme_cache_devices": disks(3, "nvme-")}, ONCE),
    "nvme_cache: one drive twice": ({"nvme_cache_devices": [BY_ID + "nvme-X"] * 2}, ONCE),
    "nvme_cache: by kernel name": ({"nvme_cache_devices": ["/dev/nvme0n1"]}, ONCE),
    "nvme_cache: out of the folder": ({"nvme_cache_devices": [BY_ID + "../../sda"]}, ONCE),
    "nvme_cache: a partition": ({"nvme_cache_devices": [BY_ID + "nvme-X-part1"]}, ONCE),
    "nvme_cache: a size in decimal units": ({"nvme_cache_fast_size": "100 GB"}, "whole numbers with KiB"),
    "nvme_cache: a size of blanks": ({"nvme_cache_meta_size": "  "}, "whole numbers with KiB"),
    "nvme_cache: wiping without a serial number": ({"nvme_cache_wipe": True}, TWICE),
    "nvme_cache: a serial number without wiping": ({"nvme_cache_wipe_serials": ["S1"]}, TWICE),
    "nvme_cache: a serial number that is a number": (
        {"nvme_cache_wipe": True, "nvme_cache_wipe_serials": [17]},
        "in quotes",
    ),
    "nvme_cache: an empty serial number": ({"nvme_cache_wipe": True, "nvme_cache_wipe_serials": [""]}, TWICE),
    "backend_raid: no disk": ({"backend_raid_disks": []}, "must name each disk once"),
    "backend_raid: by kernel name": ({"backend_raid_disks": ["/dev/sda", *disks(2)]}, "must name each disk once"),
    "backend_raid: one disk twice": ({"backend_raid_disks": [*disks(3), *disks(1)]}, "must name each disk once"),
    "backend_raid: a partition": ({"backend_raid_disks": [*disks(2), BY_ID + "a-part2"]}, "must name each disk once"),
    "backend_raid: the cache's drive": ({"backend_raid_disks": [*disks(2), *disks(1, "nvme-")]}, "is named both in"),
    "backend_raid: two disks": ({"backend_raid_disks": disks(2)}, "raid5 needs 3 disks"),
    "backend_raid: a mirror of one": (
        {"backend_raid_level": "raid1", "backend_raid_disks": disks(1)},
        "raid1 needs 2 disks",
    ),
    "backend_raid: raid6 of three": ({"backend_raid_level": "raid6"}, "raid6 needs 4 disks"),
    "backend_raid: raid10 of three": ({"backend_raid_level": "raid10"}, "raid10 needs 4 disks"),
    "backend_raid: unknown level": ({"backend_raid_level": "raid0"}, "raid0"),
    "backend_raid: small chunk": ({"backend_raid_chunk_kib": 2}, "a power of two from 4 on"),
    "backend_raid: odd chunk": ({"backend_raid_chunk_kib": 48}, "a power of two from 4 on"),
    "backend_raid: wiping without a serial number": ({"backend_raid_wipe": True}, TWICE),
    "backend_raid: a serial number without wiping": ({"backend_raid_wipe_serials": ["S1"]}, TWICE),
    "backend_raid: a list for a word": ({"backend_raid_wipe": ["S1"]}, "backend_raid_wipe"),
    "clone_store: too large a reserve": ({"clone_store_reserve_percent": 51}, "goes from 0 to 50"),
    "clone_store: less than nothing": ({"clone_store_overcommit_percent": -1}, "is not negative"),
    "clone_store: an odd block": ({"clone_store_block_kib": 100}, "a multiple of 64 from 64 to 1024"),
    "clone_store: a small block": ({"clone_store_block_kib": 0}, "a multiple of 64 from 64 to 1024"),
    "clone_store: a large block": ({"clone_store_block_kib": 1088}, "a multiple of 64 from 64 to 1024"),
    "clone_store: a size in words": ({"clone_store_state_size": "large"}, "a whole number with KiB"),
    "clone_store: writearound": ({"clone_store_cache_mode": "writearound"}, "writearound"),
    "clone_store: writeback on one drive": (
        {"clone_store_cache_mode": "writeback"},
        "two drives in nvme_cache_devices",
    ),
    "nbd_access: two clients of one name": (clients({"name": "x"}, {"name": "x", "port": 1}), "a name of its own"),
    "nbd_access: two clients on one port": (clients({}, {}), "an address and port of its own"),
    "nbd_access: a port on every address": (clients({}, {"address": "::"}), "an address and port of its own"),
    "nbd_access: a name in capitals": (client(name="Lab"), "needs a name of 1 to 63 characters"),
    "nbd_access: the appliance's own name": (client(name="local"), "that is not local"),
    "nbd_access: a host's name": (client(address="box"), "an IP address"),
    "nbd_access: no port": (client(port=0), "a port from 1 to 65535"),
    "nbd_access: past the last port": (client(port=65536), "a port from 1 to 65535"),
    "nbd_access: a client without connections": (client(max_connections=0), "from 1 to 10000 connections"),
    "nbd_access: a door on every address": (
        doors({"address": "::"}),
        "nvme of a client in nbd_access_clients needs one IP",
    ),
    "nbd_access: a door at a name": (doors({"address": "box"}), "needs one IP address"),
    "nbd_access: a door at a port of root's": (doors({"port": 1023}), "a port from 1024 to 65535"),
    "nbd_access: a host that is no NQN": (doors({"host_nqn": "hv1"}), "what the host has in its /etc/nvme/hostnqn"),
    "nbd_access: a host with a slash": (doors({"host_nqn": "nqn.2020-01.org.x:../y"}), "has in its /etc/nvme/hostnqn"),
    "nbd_access: a host of a long name": (doors({"host_nqn": HOST + "x" * 200}), "has in its /etc/nvme/hostnqn"),
    "nbd_access: a door for nobody": (clients({"nvme": {"address": "192.0.2.1"}}), "host_nqn"),
    "nbd_access: two doors on one port": (doors({"port": 4421}, {"address": "192.0.2.2"}), "a port that no client has"),
    "nbd_access: a door on a port of NBD": (doors({"port": 10810}, {}), "a port that no client has"),
    "nbd_access: two clients of one host": (doors({"host_nqn": HOST}, {"host_nqn": HOST}), "a host of its own"),
    "clone_templates: two sources": (template(src="a", url="http://b/c"), "exactly one of src, url and path"),
    "clone_templates: no source": (template(), "exactly one of src, url and path"),
    "clone_templates: two sources here and none there": (
        {
            "clone_templates_items": [
                {"name": "a", "format": "raw", "src": "a", "path": "/b"},
                {"name": "b", "format": "raw"},
            ]
        },
        "exactly one of src, url and path",
    ),
    "clone_templates: one name twice": (
        {"clone_templates_items": [{"name": "t", "format": "raw", "src": one} for one in ("a", "b")]},
        "a name of its own",
    ),
    "clone_templates: no format": ({"clone_templates_items": [{"name": "t", "src": "a"}]}, "format"),
    "clone_templates: a version in the name": (template(name="t@1", src="a"), "needs a name of 1 to 63 characters"),
    "clone_templates: half a digest": (template(src="a", sha256="0f" * 16), "64 hexadecimal digits"),
    "clone_templates: ftp": (template(url="ftp://b/c"), "begins with http:// or https://"),
    "clone_templates: a relative path": (template(path="t.raw"), "begins with / and is not below"),
    "clone_templates: a path that the service cannot see": (
        template(path="/home/t.raw"),
        "is not below /home, /root",
    ),
    "clone_templates: a boot set without a name": (template(src="a", boot_set=""), "a boot_set, if any, that names"),
    "clone_templates: no time": ({"clone_templates_deadline": 0}, "more than 0"),
    "hypervisor: no certificate": ({"hypervisor_certificate": ""}, "must name the folder that"),
    "hypervisor: a host without a key": ({"hypervisor_nvme_host_nqn": HOST}, "with hypervisor_nvme_key,"),
    "hypervisor: a key without a host": ({"hypervisor_nvme_key": "/x"}, "with hypervisor_nvme_key,"),
    "hypervisor: a host that is no NQN": (
        {"hypervisor_nvme_key": "/x", "hypervisor_nvme_host_nqn": HOST[-36:]},
        "with hypervisor_nvme_key,",
    ),
    "hypervisor: an NQN without a UUID": (
        {"hypervisor_nvme_key": "/x", "hypervisor_nvme_host_nqn": "nqn.2020-01.org.example:hv1"},
        "unless the NQN ends in one",
    ),
    "hypervisor: a relative folder": ({"hypervisor_directory": "pki/libvirt-nbd"}, "paths from / on"),
    "hypervisor: the folder of all settings": ({"hypervisor_directory": "/etc/"}, "paths from / on"),
    "hypervisor: a list that is a folder": ({"hypervisor_list_file": "/etc/hatchery/"}, "paths from / on"),
    "hypervisor: programs among what they are made of": (
        {"hypervisor_cli_programs": "/usr/local/lib/hatchery/bin"},
        "the programs are not in hypervisor_cli_directory",
    ),
    "hypervisor: a package in a folder of all": ({"hypervisor_cli_directory": "/opt"}, "with a folder in between"),
    "hypervisor: nobody on the appliance": ({"hypervisor_client": ""}, "must name a client of it"),
    "hypervisor: the appliance's own client": ({"hypervisor_client": "local"}, "and not local"),
    "hypervisor: a state in between": ({"hypervisor_state": "stopped"}, "stopped"),
}

ROLES = sorted({case.partition(":")[0] for case in (*ACCEPTED, *REFUSED)})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """For each case the task that ended it and what that said: each case is a host, each role a play."""
    folder = tmp_path_factory.mktemp("refusals")
    names = {case: re.sub(r"\W+", "-", case) for case in (*ACCEPTED, *REFUSED)}
    changes = {**ACCEPTED, **{case: change for case, (change, _) in REFUSED.items()}}
    groups = {
        role: {
            "hosts": {name: {**GOOD, **changes[case]} for case, name in names.items() if case.startswith(f"{role}:")}
        }
        for role in ROLES
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump(groups))
    # As in the checkout, where playbooks are in a folder beside that of the scripts.
    (folder / "script").symlink_to(ROOT / "script")
    (folder / "ansible").mkdir()
    plays = [{"hosts": role, "gather_facts": False, "roles": [role]} for role in ROLES]
    for play in plays:
        (folder / f"ansible/{play['hosts']}.yml").write_text(yaml.safe_dump([play]))
    environment = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORKS": "10"}
    found: dict[str, tuple[str, str]] = {}
    for role in ROLES:
        argv: list[str | Path] = [BIN / "ansible-playbook", "-i", folder / "hosts.yml", folder / f"ansible/{role}.yml"]
        done = Runner({**environment, "PATH": f"{BIN}:{os.environ['PATH']}"}).run(argv, timeout=300, check=False)
        found |= ends(done.stdout + done.stderr)
    return {case: found.get(name, ("", "")) for case, name in names.items()}


def ends(said: str) -> dict[str, tuple[str, str]]:
    """The task at which each host's play ended, and its words, out of what ansible-playbook printed."""
    found: dict[str, tuple[str, str]] = {}
    task, host = "", ""
    for line in said.splitlines():
        if heading := re.match(r"TASK \[(.*?)\]", line):
            task, host = heading.group(1), ""
        elif fatal := re.match(r"fatal: \[([^\] ]+)", line):
            host = fatal.group(1)
            found[host] = (task, line)
        elif re.match(r"(ok|changed|skipping|included|\[ERROR\])", line):
            host = ""
        elif host:
            found[host] = (task, f"{found[host][1]} {line.strip()}")
    return found


def last_task(role: str) -> str:
    """The first task of the role that is not a check."""
    tasks = yaml.safe_load((ROOT / f"roles/{role}/tasks/main.yml").read_text(encoding="utf-8"))
    return f"{role} : {tasks[1]['name']}"


@pytest.mark.parametrize("case", REFUSED)
def test_bad_variables_are_refused_before_anything_runs(case: str, told: dict[str, tuple[str, str]]) -> None:
    task, words = told[case]
    assert REFUSED[case][1] in " ".join(words.split())
    assert task.startswith(f"{case.partition(':')[0]} : ")
    assert "Check" in task or "Validating arguments" in task


@pytest.mark.parametrize("case", ACCEPTED)
def test_good_variables_are_accepted(case: str, told: dict[str, tuple[str, str]]) -> None:
    task, words = told[case]
    assert task == last_task(case.partition(":")[0]), words


APPLIANCE_KNOWS = [
    case
    for case in (*ACCEPTED, *REFUSED)
    if not case.startswith(("nbd_access:", "clone_templates:", "hypervisor:"))
    and not any(word in case for word in ("wiping", "serial", "a size", "a partition", "word", "name"))
]


@pytest.mark.parametrize("case", APPLIANCE_KNOWS)
def test_the_appliance_takes_and_refuses_the_same(case: str) -> None:
    variables = {**GOOD, **(ACCEPTED[case] if case in ACCEPTED else REFUSED[case][0])}
    specs: dict[Part, dict[str, Any]] = {
        Part.NVME: {"devices": variables["nvme_cache_devices"]},
        Part.BACKEND: {
            "level": variables.get("backend_raid_level", "raid5"),
            "disks": variables["backend_raid_disks"],
            "chunk_kib": variables.get("backend_raid_chunk_kib", 64),
        },
        Part.STORE: {
            key: variables[f"clone_store_{key}"]
            for key in ("cache_mode", "block_kib", "reserve_percent", "overcommit_percent")
            if f"clone_store_{key}" in variables
        },
    }
    refused = False
    try:
        sections = {part.value: setup.parse_spec(part, spec).section for part, spec in specs.items()}
        config = Config(**sections)  # type: ignore[arg-type]  # each part has the section of its kind
        nvme.require_count(config.require_nvme())
        setup.refuse_unsafe(config)
        backend.require_count(config.require_backend())
    except (InvalidInput, Refused):
        refused = True
    assert refused == (case in REFUSED)


@pytest.mark.parametrize(
    "case", [case for case in (*ACCEPTED, *REFUSED) if re.match("nbd_access: (a host (that|with|of)|doors)", case)]
)
def test_the_appliance_takes_and_refuses_the_same_hosts(case: str) -> None:
    variables = ACCEPTED[case] if case in ACCEPTED else REFUSED[case][0]
    for each in variables["nbd_access_clients"]:
        if case in ACCEPTED:
            assert check_nqn(each["nvme"]["host_nqn"])
        else:
            with pytest.raises(InvalidInput):
                check_nqn(each["nvme"]["host_nqn"])
