"""Clients that a play names: made, changed and left as they are, with and without a way over NVMe/TCP."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.client import connect
from appliance.errors import AlreadyExists, InUse
from appliance.host import netlink
from appliance.schema import ClientSpec, CloneCreate, NvmeKeyRequest
from tests.unit.api_server import serving
from tests.unit.nvme_box import attach
from tests.unit.service_harness import Box, box
from tests.unit.test_ansible_modules import load

clients = load("modules/hatchery_client.py", "hatchery_client")

HV1, HV2 = "nqn.2014-08.org.nvmexpress:uuid:0cafe", "nqn.2020-01.org.example:hv2"


@pytest.fixture
def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5", "fd00::5"}))
    monkeypatch.setattr(netlink, "tcp_connections", lambda _: ())
    with box(tmp_path) as made:
        yield made


def client(name: str = "hv1", nvme: dict[str, Any] | None = None, **change: Any) -> dict[str, Any]:
    """A client as Ansible hands it over, with the defaults of what was left out."""
    return {
        "name": name,
        "address": "10.0.0.5",
        "port": 10809,
        "plain": False,
        "max_connections": 1000,
        "nvme": nvme,
        **change,
    }


def door(**change: Any) -> dict[str, Any]:
    return {"address": "10.0.0.5", "port": 4420, "host_nqn": HV1, **change}


def settle(appliance: Box, *wanted: dict[str, Any], check: bool = False) -> dict[str, Any]:
    with serving(appliance), connect(socket=appliance.paths.api_socket) as api:
        done: dict[str, Any] = clients.settle(api, wanted, check=check)
    return done


def doors(appliance: Box) -> dict[str, tuple[str, int, str]]:
    """Where hosts are let in, as the appliance says."""
    views = appliance.service.list_clients().clients
    return {
        view.name: (view.nvme.address, view.nvme.port, view.nvme.host_nqn) for view in views if view.nvme is not None
    }


def names(appliance: Box) -> set[str]:
    return {view.name for view in appliance.service.list_clients().clients}


def test_a_client_and_its_door_are_made_once_and_check_mode_only_says_so(appliance: Box) -> None:
    wanted = client(nvme=door())
    planned = settle(appliance, wanted, check=True)
    assert "hv1" not in names(appliance)
    assert planned["diff"] == {
        "before": "",
        "after": "client hv1: 10.0.0.5 port 10809, at most 1000 connections\n"
        f"client hv1: NVMe/TCP at 10.0.0.5 port 4420 for host {HV1}\n",
    }
    done = settle(appliance, wanted)
    assert done == planned
    assert (done["changed"], done["clients"], done["without_key"]) == (True, ["hv1"], ["hv1"])
    assert doors(appliance) == {"hv1": ("10.0.0.5", 4420, HV1)}
    for check in (True, False):
        again = settle(appliance, wanted, check=check)
        assert again == {**done, "changed": False, "clients": [], "diff": {"before": "", "after": ""}}


def test_a_door_is_added_to_a_client_without_touching_the_client(appliance: Box) -> None:
    settle(appliance, client())
    starts = appliance.units.daemons["hv1"]
    done = settle(appliance, client(nvme=door(port=4421)))
    assert done["clients"] == ["hv1"]
    assert appliance.units.daemons["hv1"] is starts
    assert doors(appliance) == {"hv1": ("10.0.0.5", 4421, HV1)}
    # Who is not named stays as he is.
    assert not settle(appliance, client("hv2", port=10810))["without_key"]
    assert doors(appliance) == {"hv1": ("10.0.0.5", 4421, HV1)}


def test_a_change_keeps_the_key_of_the_host_and_another_host_has_none(appliance: Box) -> None:
    settle(appliance, client(nvme=door()))
    key = appliance.service.issue_nvme_key("hv1", NvmeKeyRequest()).key.get_secret_value()
    assert settle(appliance, client(nvme=door()))["without_key"] == []
    said = json.dumps(settle(appliance, client(nvme=door(port=4430)), check=True))
    assert doors(appliance)["hv1"][1] == 4420
    done = settle(appliance, client(nvme=door(port=4430)))
    said += json.dumps(done)
    assert (done["clients"], done["without_key"]) == (["hv1"], [])
    assert "port 4420" in done["diff"]["before"]
    assert "port 4430" in done["diff"]["after"]
    other = settle(appliance, client(nvme=door(port=4430, host_nqn=HV2)))
    said += json.dumps(other)
    assert (other["clients"], other["without_key"]) == (["hv1"], ["hv1"])
    assert key.split(":")[2] not in said


def test_a_door_that_is_not_declared_goes_and_not_while_clones_are_attached(appliance: Box) -> None:
    settle(appliance, client(nvme=door()))
    appliance.service.issue_nvme_key("hv1", NvmeKeyRequest())
    assert appliance.add_template("debian").state == "succeeded"
    appliance.service.create_clones(CloneCreate(name="web", template="debian", client=None))
    attach(appliance, "web")
    with pytest.raises(InUse, match="reached over NVMe/TCP") as caught:
        settle(appliance, client())
    assert "web" in caught.value.why
    with pytest.raises(InUse, match="cannot be another host now"):
        settle(appliance, client(nvme=door(host_nqn=HV2)))
    assert doors(appliance) == {"hv1": ("10.0.0.5", 4420, HV1)}
    appliance.service.detach("web", None, force=False)
    planned = settle(appliance, client(), check=True)
    assert doors(appliance)
    assert settle(appliance, client()) == planned
    assert planned["diff"]["after"] == "client hv1: 10.0.0.5 port 10809, at most 1000 connections\n"
    assert doors(appliance) == {}


def test_a_port_that_a_door_had_is_free_for_who_is_named_before_it(appliance: Box) -> None:
    settle(appliance, client(nvme=door()), client("hv2", port=10810, nvme=door(port=4421, host_nqn=HV2)))
    done = settle(appliance, client(nvme=door(port=4421)), client("hv2", port=10810))
    assert done["clients"] == ["hv1", "hv2"]
    assert doors(appliance) == {"hv1": ("10.0.0.5", 4421, HV1)}


def test_what_the_appliance_refuses_is_refused(appliance: Box) -> None:
    settle(appliance, client(nvme=door()))
    with pytest.raises(InUse, match="port 4420 is taken"):
        settle(appliance, client("hv2", port=10810, nvme=door(host_nqn=HV2)))
    with pytest.raises(AlreadyExists, match="cannot be the host"):
        settle(appliance, client("hv2", port=10810, nvme=door(port=4421)))
    assert doors(appliance) == {"hv1": ("10.0.0.5", 4420, HV1)}


def test_another_spelling_of_an_address_is_no_change(appliance: Box) -> None:
    wanted = client(address="FD00:0::5", nvme=door(address="fd00:0:0::0005"))
    settle(appliance, wanted)
    assert doors(appliance) == {"hv1": ("fd00::5", 4420, HV1)}
    assert not settle(appliance, wanted)["changed"]


def test_a_client_of_a_socket_becomes_one_of_the_network(appliance: Box) -> None:
    appliance.service.put_client("hv1", ClientSpec(transport="unix"))
    done = settle(appliance, client(plain=True))
    assert done["diff"] == {
        "before": "client hv1: a unix socket, at most 1000 connections\n",
        "after": "client hv1: 10.0.0.5 port 10809, plain NBD, at most 1000 connections\n",
    }
    assert not settle(appliance, client(plain=True))["changed"]
