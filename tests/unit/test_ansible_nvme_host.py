"""A host of NVMe/TCP: its name and key, its clones' addresses and units; on a folder and a model of systemd."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.service.nvme_doors import new_key
from tests.unit.test_ansible_modules import load

ROOT = Path(__file__).resolve().parents[2]
nvme_host = load("modules/hatchery_nvme_host.py", "hatchery_nvme_host")

HOST_ID = "6f1c1f9e-5b0e-4d5a-9d0c-2f6f3f5b7a10"
HOST_NQN = f"nqn.2014-08.org.nvmexpress:uuid:{HOST_ID}"
KEY, OTHER_KEY = new_key(), new_key()
UNIT = (ROOT / "roles/hypervisor/files" / nvme_host.TEMPLATE).read_text(encoding="utf-8")


def clone(name: str, number: int) -> dict[str, Any]:
    """A clone as hatchery_clones returns it."""
    made = f"00000000-0000-5000-8000-{number:012}"
    where = {"nqn": f"nqn.2014-08.org.nvmexpress:uuid:{made}", "address": "192.0.2.10", "port": 4420}
    device = f"/dev/disk/by-id/nvme-uuid.{made}"
    return {"name": name, "uri": None, "libvirt": None, "nvme": {**where, "device": device}}


NBD = {"name": "by-nbd", "uri": "nbds://192.0.2.10:10809/by-nbd", "libvirt": "<disk/>", "nvme": None}


class Machine:
    """A host's files below a folder, and its service manager: units that are started connect their clones."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.enabled: set[str] = set()
        self.active: set[str] = set()
        self.ran: list[str] = []
        self.unreachable = False
        self.host = nvme_host.Host(root, self.run)
        self.params: dict[str, Any] = {
            "state": "present",
            "host_nqn": HOST_NQN,
            "host_id": HOST_ID,
            "key": f"{KEY}\n",
            "unit": UNIT,
            "clones": [clone("web-1", 1), NBD],
        }

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        match argv:
            case ["systemctl", "show", _, *units]:
                return 0, "\n\n".join(self._shown(unit) for unit in units) + "\n", ""
            case ["systemctl", "enable", *units]:
                self.enabled |= set(units)
            case ["systemctl", "restart", *units]:
                if self.unreachable:
                    return 1, "", "Job failed."
                for unit in units:
                    self.connect(self.nqn_of(unit.partition("@")[2].removesuffix(".service")))
                self.active |= set(units)
            case ["systemctl", "disable", "--now", *units]:
                self.enabled -= set(units)
                self.active -= set(units)
            case ["nvme", "disconnect", word]:
                self.disconnect(word.removeprefix("--nqn="))
            case ["systemctl", "daemon-reload"]:
                pass
            case _:
                pytest.fail(f"nobody runs {argv}")
        self.ran.append(" ".join(argv))
        return 0, "", ""

    def _shown(self, unit: str) -> str:
        state, active = "enabled" if unit in self.enabled else "", "active" if unit in self.active else "inactive"
        return f"Id={unit}\nActiveState={active}\nUnitFileState={state}\nNeedDaemonReload=no"

    def nqn_of(self, name: str) -> str:
        lines = (self.root / "etc/hatchery/nvme" / name).read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)["NQN"]

    def connect(self, nqn: str, transport: str = "tcp") -> Path:
        """A controller, as sysfs shows it; the one that there is, if any."""
        for folder in (self.root / "sys/class/nvme").glob("*"):
            if (folder / "subsysnqn").read_text(encoding="utf-8") == f"{nqn}\n":
                return folder
        folder = self.root / f"sys/class/nvme/nvme{len(list((self.root / 'sys/class/nvme').glob('*')))}"
        folder.mkdir(parents=True)
        known = self.root / "etc/hatchery/nvme.json"
        secret = json.loads(known.read_text(encoding="utf-8"))[0]["dhchap_key"] if known.exists() else "none"
        facts = {"transport": transport, "subsysnqn": nqn, "dhchap_secret": secret, "state": "live"}
        for name, text in facts.items():
            (folder / name).write_text(f"{text}\n", encoding="utf-8")
        return folder

    def lose(self, nqn: str) -> None:
        """Nobody answers for a disk, and the kernel tries to connect it again."""
        (self.connect(nqn) / "state").write_text("connecting\n", encoding="utf-8")

    def disconnect(self, nqn: str) -> None:
        folder = self.connect(nqn)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    def settle(self, *, check: bool = False, **change: Any) -> dict[str, Any]:
        self.params |= change
        done: dict[str, Any] = nvme_host.settle(self.params, self.host, check=check)
        return done

    def seen(self) -> dict[str, tuple[int, str]]:
        """Modes and contents of all that is below /etc."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode & 0o7777, path.read_text() if path.is_file() else "")
            for path in (self.root / "etc").rglob("*")
        }


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    before = os.umask(0o077)
    for folder in ("etc", "etc/systemd", "etc/systemd/system"):
        (tmp_path / folder).mkdir(mode=0o755)
        (tmp_path / folder).chmod(0o755)
    yield Machine(tmp_path)
    os.umask(before)


def test_a_host_gets_its_name_its_key_and_a_unit_for_each_clone(machine: Machine) -> None:
    done = machine.settle()
    web = clone("web-1", 1)["nvme"]
    known = json.dumps([{"hostnqn": HOST_NQN, "hostid": HOST_ID, "dhchap_key": KEY}], indent=2)
    assert machine.seen() == {
        "etc/nvme": (0o755, ""),
        "etc/nvme/hostnqn": (0o644, f"{HOST_NQN}\n"),
        "etc/nvme/hostid": (0o644, f"{HOST_ID}\n"),
        "etc/hatchery": (0o755, ""),
        "etc/hatchery/nvme.json": (0o600, f"{known}\n"),
        "etc/modules-load.d": (0o755, ""),
        "etc/modules-load.d/hatchery-nvme.conf": (0o644, "nvme-tcp\n"),
        "etc/udev": (0o755, ""),
        "etc/udev/rules.d": (0o755, ""),
        "etc/udev/rules.d/70-hatchery-nvme.rules": (0o644, nvme_host.RULE),
        "etc/systemd": (0o755, ""),
        "etc/systemd/system": (0o755, ""),
        "etc/systemd/system/hatchery-nvme-connect@.service": (0o644, UNIT),
        "etc/hatchery/nvme": (0o755, ""),
        "etc/hatchery/nvme/web-1": (
            0o644,
            f"NQN={web['nqn']}\nADDRESS=192.0.2.10\nPORT=4420\nDEVICE={web['device']}\n",
        ),
    }
    assert done["devices"] == {"web-1": web["device"]}
    unit = "hatchery-nvme-connect@web-1.service"
    assert machine.ran == ["systemctl daemon-reload", f"systemctl enable {unit}", f"systemctl restart {unit}"]


def test_a_second_run_changes_nothing_and_check_mode_never_does(machine: Machine) -> None:
    before = machine.seen()
    planned = machine.settle(check=True)
    assert planned["changed"]
    assert (machine.seen(), machine.ran) == (before, [])
    assert machine.settle() == planned
    before, ran = machine.seen(), list(machine.ran)
    for check in (True, False):
        again = machine.settle(check=check)
        assert (again["changed"], again["diff"]) == (False, {"before": "", "after": ""})
    assert (machine.seen(), machine.ran) == (before, ran)


def test_the_key_is_never_shown_and_a_new_one_is_given_to_who_is_connected(machine: Machine) -> None:
    said = json.dumps(machine.settle())
    said += json.dumps(machine.settle(check=True, key=OTHER_KEY))
    folder = machine.connect(clone("web-1", 1)["nvme"]["nqn"])
    assert (folder / "dhchap_secret").read_text(encoding="utf-8") == f"{KEY}\n"
    machine.ran.clear()
    done = machine.settle()
    said += json.dumps(done)
    assert (folder / "dhchap_secret").read_text(encoding="utf-8") == OTHER_KEY
    assert machine.ran == []
    assert "nvme.json" in done["diff"]["after"]
    assert "nvme0 another key" in done["diff"]["after"]
    (machine.root / "etc/hatchery/nvme.json").chmod(0o644)
    said += json.dumps(machine.settle())
    assert machine.seen()["etc/hatchery/nvme.json"][0] == 0o600
    said += json.dumps(machine.settle(state="absent"))
    for key in (KEY, OTHER_KEY):
        assert key.split(":")[2] not in said


def test_a_controller_that_knows_no_key_or_is_not_ours_keeps_what_it_has(machine: Machine) -> None:
    others = [machine.connect("nqn.2020-01.org.example:other"), machine.connect("nqn.2020-01.org.example:disk", "pcie")]
    machine.settle()
    machine.settle(key=OTHER_KEY)
    assert [(folder / "dhchap_secret").read_text(encoding="utf-8") for folder in others] == ["none\n"] * 2
    assert not machine.settle()["changed"]


def test_a_clone_that_is_not_attached_any_more_is_disconnected_and_its_unit_stopped(machine: Machine) -> None:
    machine.settle(clones=[clone("web-1", 1), clone("web-2", 2)])
    machine.lose(clone("web-1", 1)["nvme"]["nqn"])
    machine.ran.clear()
    done = machine.settle(clones=[clone("web-2", 2), NBD])
    gone = clone("web-1", 1)["nvme"]["nqn"]
    assert machine.ran == [
        "systemctl disable --now hatchery-nvme-connect@web-1.service",
        f"nvme disconnect --nqn={gone}",
    ]
    assert "etc/hatchery/nvme/web-1" not in machine.seen()
    assert gone in done["diff"]["before"]
    assert done["devices"].keys() == {"web-2"}
    assert machine.active == machine.enabled == {"hatchery-nvme-connect@web-2.service"}


def test_a_disk_that_answers_is_not_disconnected_though_the_appliance_does_not_have_it(machine: Machine) -> None:
    machine.settle()
    machine.ran.clear()
    assert machine.settle(clones=[NBD])["changed"]
    assert machine.ran == ["systemctl disable --now hatchery-nvme-connect@web-1.service"]


def test_a_clone_that_was_reset_is_another_disk(machine: Machine) -> None:
    machine.settle()
    machine.lose(clone("web-1", 1)["nvme"]["nqn"])
    machine.ran.clear()
    assert machine.settle(clones=[clone("web-1", 7)])["changed"]
    assert machine.ran == [
        "systemctl daemon-reload",
        f"nvme disconnect --nqn={clone('web-1', 1)['nvme']['nqn']}",
        "systemctl enable hatchery-nvme-connect@web-1.service",
        "systemctl restart hatchery-nvme-connect@web-1.service",
    ]
    assert machine.nqn_of("web-1") == clone("web-1", 7)["nvme"]["nqn"]


def test_clones_that_nobody_was_asked_for_stay_as_they_are(machine: Machine) -> None:
    machine.settle()
    machine.ran.clear()
    done = machine.settle(clones=None)
    assert (done["changed"], machine.ran) == (False, [])
    machine.settle(key=OTHER_KEY)
    folder = machine.connect(clone("web-1", 1)["nvme"]["nqn"])
    assert (folder / "dhchap_secret").read_text(encoding="utf-8") == OTHER_KEY


def test_a_unit_that_was_stopped_is_started_and_one_that_cannot_connect_is_an_error_each_time(machine: Machine) -> None:
    machine.settle()
    machine.active.clear()
    done = machine.settle(check=True)
    assert done["diff"]["after"] == "hatchery-nvme-connect@web-1.service enabled, started\n"
    machine.unreachable = True
    for _ in range(2):
        with pytest.raises(nvme_host.Wrong, match="not every clone is connected") as caught:
            machine.settle()
        assert "journalctl -u hatchery-nvme-connect@web-1.service" in caught.value.words["hint"]
    machine.unreachable = False
    assert machine.settle()["changed"]
    assert not machine.settle()["changed"]


BROKEN_KEYS = [KEY[:-8], KEY.replace("DHHC-1", "DHHC-2"), f"{KEY[:12]}{'A' if KEY[12] != 'A' else 'B'}{KEY[13:]}", ""]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(({"key": key}, "the key cannot be used") for key in BROKEN_KEYS),
        ({"host_nqn": "hv1"}, "not the NQN of a host"),
        ({"host_id": "hv1"}, "is not a host's id"),
        ({"clones": [{**clone("web-1", 1), "name": "../web"}]}, "cannot be connected"),
        ({"clones": [{"name": "web", "nvme": {**clone("web", 1)["nvme"], "nqn": "a\nPORT=1"}}]}, "cannot be connected"),
        ({"clones": [{"name": "web", "nvme": {**clone("web", 1)["nvme"], "address": "$(id)"}}]}, "cannot be connected"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    machine: Machine, change: dict[str, Any], words: str
) -> None:
    before = machine.seen()
    with pytest.raises(nvme_host.Wrong) as caught:
        machine.settle(**change)
    assert words in caught.value.words["what"]
    assert KEY[12:40] not in json.dumps(caught.value.words)
    assert (machine.seen(), machine.ran) == (before, [])


def test_what_was_written_is_removed_and_disks_stay(machine: Machine) -> None:
    machine.settle()
    machine.ran.clear()
    planned = machine.settle(state="absent", check=True)
    assert machine.settle() == planned
    assert machine.ran == [
        "systemctl disable --now hatchery-nvme-connect@web-1.service",
        "systemctl daemon-reload",
    ]
    left = {"etc/nvme", "etc/nvme/hostnqn", "etc/nvme/hostid", "etc/hatchery", "etc/modules-load.d"}
    assert machine.seen().keys() == left | {"etc/systemd", "etc/systemd/system", "etc/udev", "etc/udev/rules.d"}
    assert len(list((machine.root / "sys/class/nvme").iterdir())) == 1
    again = machine.settle()
    assert (again["changed"], again["diff"]) == (False, {"before": "", "after": ""})
