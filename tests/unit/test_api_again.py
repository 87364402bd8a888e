"""PUT and DELETE may be sent again: the second time succeeds too, and changes nothing."""

from pathlib import Path
from typing import Any

from httpx import Client

from appliance import schema
from appliance.api.app import make_app
from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.model import MIB, Extent
from appliance.service.service import Service
from tests import own_authority
from tests.unit.api_server import serving
from tests.unit.service_harness import IMAGE, Box, box

OWN = own_authority.authority("CN=own")
BOOT_SET = file.dump(file.BootSetFile("debian@1", None, BootSet((Extent(0, MIB),), len(IMAGE), 1)))

AGAIN: dict[tuple[str, str], tuple[str, object]] = {
    ("put", "/v1/clients/{name}"): ("/v1/clients/lab", {"transport": "unix"}),
    ("put", "/v1/clients/{name}/nvme"): (
        "/v1/clients/lab/nvme",
        {"address": "127.0.0.1", "port": 4420, "host_nqn": "nqn.2020-01.org.example:lab"},
    ),
    ("put", "/v1/authority"): ("/v1/authority", {"certificate": OWN.certificate, "key": OWN.key}),
    ("put", "/v1/clones/{name}/attachment"): ("/v1/clones/web/attachment", {"client": "lab"}),
    ("put", "/v1/clones/{name}/size"): ("/v1/clones/web/size", {"size": 8 * MIB}),
    ("put", "/v1/clones/{name}/lease"): ("/v1/clones/web/lease", {"seconds": None}),
    ("put", "/v1/templates/{ref}/boot-set/file"): ("/v1/templates/debian/boot-set/file", BOOT_SET),
    ("put", "/v1/clones/{name}/limits"): ("/v1/clones/web/limits", {"iops": 500, "bandwidth": None}),
    ("put", "/v1/clones/{name}/seed"): ("/v1/clones/web/seed", {"hostname": "host", "user_data": "#!/bin/sh"}),
    ("delete", "/v1/clones/{name}/seed"): ("/v1/clones/web/seed", None),
    ("put", "/v1/templates/{ref}/offers/{client}"): ("/v1/templates/debian/offers/lab", None),
    ("delete", "/v1/templates/{ref}/offers/{client}"): ("/v1/templates/debian/offers/lab", None),
    ("delete", "/v1/templates/{ref}/boot-set"): ("/v1/templates/debian/boot-set", None),
    ("delete", "/v1/stills/{number}"): ("/v1/stills/STILL", None),
    ("delete", "/v1/clones/{name}/attachment"): ("/v1/clones/web/attachment", None),
    ("delete", "/v1/clones/{name}"): ("/v1/clones/web", None),
    ("delete", "/v1/clients/{name}/nvme"): ("/v1/clients/lab/nvme", None),
    ("delete", "/v1/clients/{name}"): ("/v1/clients/lab", None),
    ("delete", "/v1/templates/{ref}"): ("/v1/templates/debian@1", None),
}
"""Each route with a request that changes something, in an order in which each can."""

ENDED = {("put", "/v1/templates/{name}/content"), ("delete", "/v1/histograms")}
"""They end something that a POST began: what has ended is not found. docs/api.md says so."""


def routes() -> set[tuple[str, str]]:
    described = make_app(Service.__new__(Service)).openapi()["paths"]
    return {(method, path) for path, methods in described.items() for method in methods if method in ("put", "delete")}


def send(api: Client, method: str, path: str, body: object) -> Any:
    if isinstance(body, str):
        return api.request(method, path, content=body)
    return api.request(method, path, json=body)


def state(api: Client) -> list[object]:
    """All that the requests can change, but for the moment of a change."""
    found = [api.get(f"/v1/{kind}").json() for kind in ("templates", "clones", "clients", "stills", "authority")]
    for template in found[0]["templates"]:
        template["prefetch"] = None
        if template["boot_set"] is not None:
            template["boot_set"]["changed"] = 0
    return found


def filled(appliance: Box) -> None:
    appliance.add_template("debian")
    appliance.service.create_clones(schema.CloneCreate(name="web", template="debian", client=None))
    appliance.service.stills.of_clone("web")


def test_the_second_time_changes_nothing(tmp_path: Path) -> None:
    with box(tmp_path) as appliance, serving(appliance) as api:
        filled(appliance)
        before = state(api)
        still = appliance.service.stills.list().stills[0].id
        for (method, route), (named, body) in AGAIN.items():
            path = named.replace("STILL", still)
            first = send(api, method, path, body)
            assert first.is_success, (route, first.text)
            once = state(api)
            # A lease for ever is what the clone has already.
            assert (once != before) or route.endswith("/lease"), route
            second = send(api, method, path, body)
            assert second.is_success, (route, second.text)
            assert state(api) == once, route
            before = once


def test_every_route_is_among_them() -> None:
    assert set(AGAIN) | ENDED == routes()


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    """A wrong method, bad JSON, a wrong type, an unknown field, a bad name: each for every route that takes a body."""
    with box(tmp_path) as appliance, serving(appliance) as api:
        filled(appliance)
        before = state(api)
        for (method, _), (path, body) in AGAIN.items():
            wrong = [api.request("TRACE", path), api.request("PATCH", path, json={})]
            if isinstance(body, dict):
                bad = (b"{", b"[]", b"null", b"\xff", b'"text"', b"NaN")
                wrong += [api.request(method, path, content=content) for content in bad]
                wrong.append(api.request(method, path, json={**body, "colour": "red"}))
                wrong += [api.request(method, path, json={**body, name: [{}]}) for name in body]
            bad_name = path.replace("web", "Web_").replace("lab", "-").replace("debian", "De bian")
            if bad_name != path:
                wrong.append(send(api, method, bad_name, body))
            for response in wrong[: len(wrong) - (method == "delete")]:
                assert 400 <= response.status_code < 500, (response.request.method, path, response.text)
                details = schema.ProblemDetails.model_validate_json(response.content)
                assert response.headers["content-type"] == schema.PROBLEM_TYPE
                assert details.detail or details.hint
        assert state(api) == before
