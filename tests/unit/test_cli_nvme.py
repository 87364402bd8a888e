"""Clones over NVMe/TCP from the command line."""

from pathlib import Path

import pytest

from appliance.errors import CannotTell
from appliance.host import netlink
from appliance.host.netlink import Connection
from appliance.model import KIB
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]

HOST = "nqn.2014-08.org.nvmexpress:uuid:0cafe"
DOOR = ("client", "nvme", "lab", "--listen", "127.0.0.1:4420", "--host-nqn", HOST)


def test_a_clone_is_attached_over_nvme(appliance: Appliance, image: Path, tmp_path: Path) -> None:
    appliance.json("template", "add", "debian-13", str(image))
    appliance.json("client", "add", "lab")
    appliance.json("clone", "create", "web", "-t", "debian-13", "--client", "")
    words = ("clone", "attach", "web", "--client", "lab", "--protocol", "nvme-tcp")
    status, _, err = appliance.run(*words)
    assert (status, "hatchery client nvme lab" in err) == (9, True)
    status, out, _ = appliance.run(*DOOR)
    assert (status, "Next: hatchery client certificate lab DIRECTORY --nvme" in out) == (0, True)
    assert f"127.0.0.1:4420 for host {HOST}, without a key yet; not encrypted" in out

    folder = tmp_path / "lab"
    made = appliance.json("client", "certificate", "lab", str(folder), "--nvme")
    (file,) = folder.iterdir()
    key = file.read_text()
    assert (file.name, file.stat().st_mode & 0o777, key[:10]) == ("nvme-dhchap-key", 0o600, "DHHC-1:01:")
    assert (made["host_nqn"], "key" in made) == (HOST, False)
    # Neither is what is there overwritten, nor is another one made of it.
    assert appliance.run("client", "certificate", "lab", str(folder), "--nvme")[0] == 5
    assert appliance.run("client", "certificate", "lab", str(tmp_path / "other"), "--nvme")[0] == 5
    assert not list((tmp_path / "other").iterdir())

    status, out, _ = appliance.run(*words)
    assert status == 0
    view = appliance.json("clone", "show", "web")
    assert f"--nqn={view['nvme']['nqn']} --hostnqn={HOST}" in out
    assert '--dhchap-secret="$(cat nvme-dhchap-key)"' in out
    assert view["nvme"]["device"] in out
    assert "qemu-system" not in out
    assert key.strip() not in out + str(view)
    assert ".1:4420" in appliance.run("clone", "list")[1]
    _, out, _ = appliance.run("client", "show", "lab")
    assert f"127.0.0.1:4420 for host {HOST}, by its key of " in out
    assert "NVMe/TCP not encrypted" in appliance.json("client", "list")[0]["detail"]

    assert appliance.json("client", "rotate", "lab", str(folder), "--nvme")["host_nqn"] == HOST
    assert file.read_text() != key
    assert appliance.run("client", "nvme", "lab", "--none")[0] == 6
    assert appliance.json("clone", "detach", "web")["nvme"] is None
    assert appliance.run("client", "nvme", "lab", "--none")[0] == 0
    assert appliance.json("client", "show", "lab")["nvme"] is None


def test_what_makes_no_sense_is_refused(appliance: Appliance, tmp_path: Path) -> None:
    appliance.json("client", "add", "lab")
    for words in (
        ("client", "nvme", "lab"),
        ("client", "nvme", "lab", "--none", "--host-nqn", HOST),
        ("client", "nvme", "lab", "--listen", "127.0.0.1", "--host-nqn", HOST),
        ("client", "nvme", "lab", "--listen", "127.0.0.1:80", "--host-nqn", HOST),
        ("client", "nvme", "lab", "--listen", "127.0.0.1:4420", "--host-nqn", "hv1"),
        ("client", "certificate", "lab", "-", "--nvme"),
        ("client", "certificate", "lab", str(tmp_path), "--nvme", "--csr", "x"),
        ("clone", "attach", "web", "lab", "--protocol", "nvme-tcp", "--shared"),
    ):
        assert appliance.run(*words)[0] == 3, words
    assert appliance.run("client", "certificate", "lab", str(tmp_path), "--nvme")[0] == 9, "there is no door"
    assert not list(tmp_path.glob("*dhchap*"))


def test_who_is_connected_over_nvme_is_shown_as_others_are(
    appliance: Appliance, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.json("template", "add", "debian-13", str(image))
    appliance.json("client", "add", "lab")
    appliance.json("clone", "create", "web", "-t", "debian-13", "--client", "")
    appliance.json(*DOOR)
    appliance.json("client", "certificate", "lab", str(tmp_path / "lab"), "--nvme")
    appliance.json("clone", "attach", "web", "--client", "lab", "--protocol", "nvme-tcp")
    monkeypatch.setattr(netlink, "tcp_connections", lambda _: (Connection("192.0.2.7:40000", "7", 3 * KIB, 5 * KIB),))
    for words in (("status",), ("client", "list")):
        said = " ".join(appliance.run(*words)[1].split())
        assert "192.0.2.7:40000 by NVMe/TCP since" in said
        assert "3.0 KiB from it, 5.0 KiB to it" in said
    said = appliance.run("client", "show", "lab")[1]
    assert "0 by NBD, 1 by NVMe/TCP" in said
    assert "connected over NVMe/TCP from 192.0.2.7:40000 since" in said

    def fail(_: int) -> None:
        raise CannotTell("who is connected cannot be told")

    monkeypatch.setattr(netlink, "tcp_connections", fail)
    assert "cannot tell by NVMe/TCP" in " ".join(appliance.run("status")[1].split())
    assert "0 by NBD, cannot tell by NVMe/TCP" in appliance.run("client", "show", "lab")[1]
