import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx import Client

from appliance import errors, schema
from appliance.api.problems import STATUS, status_of
from appliance.errors import HatcheryError
from appliance.model import Histogram
from appliance.wait import until
from tests.unit.api_server import serving
from tests.unit.qcow2_files import Image
from tests.unit.service_harness import IMAGE, Box, box


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.fixture
def api(appliance: Box) -> Iterator[Client]:
    with serving(appliance) as client:
        yield client


def upload(api: Client, name: str, content: bytes = IMAGE, kind: str = "raw", **more: object) -> Any:
    body = {"name": name, "format": kind, "source": {"kind": "upload"}, "size": len(content), **more}
    begun = api.post("/v1/templates", json=body)
    assert begun.status_code == 202, begun.text
    return api.put(f"/v1/templates/{name}/content", content=content)


def finished(api: Client, appliance: Box, number: str) -> schema.Operation:
    assert appliance.service.operations.job(number).finished.wait(10)
    return schema.Operation.model_validate(api.get(f"/v1/operations/{number}").json())


def problem(response: Any) -> schema.ProblemDetails:
    assert response.headers["content-type"] == "application/problem+json"
    details = schema.ProblemDetails.model_validate(response.json())
    assert details.status == response.status_code
    assert details.title
    return details


def test_from_upload_to_clone_and_back(api: Client, appliance: Box) -> None:
    sent = upload(api, "debian", sha256=hashlib.sha256(IMAGE).hexdigest())
    assert sent.status_code == 200
    assert finished(api, appliance, sent.json()["id"]).state == "succeeded"
    made = api.post("/v1/clones", json={"name": "web", "template": "debian", "count": 2})
    assert made.status_code == 201
    clones = schema.CloneList.model_validate(made.json()).clones
    assert [clone.name for clone in clones] == ["web-1", "web-2"]
    assert api.get("/v1/clones/web-1").json() == {
        **made.json()["clones"][0],
        "latencies": {"counts": [], "seconds": None},
    }
    assert api.get("/v1/templates/debian").json()["clones"] == 2
    assert problem(api.delete("/v1/templates/debian")).type == "in-use"
    for name in ("web-1", "web-2"):
        assert api.delete(f"/v1/clones/{name}").json() == {"name": name, "removed": True}
    assert api.delete("/v1/clones/web-1").json() == {"name": "web-1", "removed": False}
    assert api.delete("/v1/templates/debian@1").json() == {"name": "debian@1", "removed": True, "retired": False}
    assert api.get("/v1/templates").json() == {"templates": []}
    assert not appliance.pool.volumes


def test_attachments(api: Client, appliance: Box) -> None:
    upload(api, "debian")
    finished(api, appliance, api.get("/v1/operations").json()["operations"][0]["id"])
    assert api.put("/v1/clients/lab", json={"transport": "unix"}).status_code == 201
    assert api.put("/v1/clients/lab", json={"transport": "unix"}).status_code == 200
    api.post("/v1/clones", json={"name": "web", "template": "debian", "client": None})
    assert api.get("/v1/clones/web").json()["uri"] is None
    attached = api.put("/v1/clones/web/attachment", json={"client": "lab"}).json()
    assert attached["uri"].startswith("nbd+unix:///web?socket=")
    assert problem(api.put("/v1/clones/web/attachment", json={"client": "local"})).type == "in-use"
    assert problem(api.delete("/v1/clients/lab")).type == "in-use"
    appliance.units.daemons["lab"].connected.add("clone-2")
    assert problem(api.delete("/v1/clones/web/attachment")).type == "in-use"
    assert api.delete("/v1/clones/web/attachment?force=true").json()["client"] is None
    assert api.delete("/v1/clients/lab").json()["removed"]
    assert not api.delete("/v1/clients/lab").json()["removed"]


def test_an_upload_that_is_refused_half_way_says_why(api: Client, appliance: Box) -> None:
    refused = upload(api, "bad", Image(backing_offset=512).build(), kind="qcow2")
    details = problem(refused)
    assert details.type == "bad-image"
    assert "backing file" in details.title
    assert details.hint
    assert not appliance.pool.volumes


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "status"),
    [
        ("GET", "/v1/templates/none", None, "not-found", 404),
        ("GET", "/v1/clones/none", None, "not-found", 404),
        ("GET", "/v1/operations/none", None, "not-found", 404),
        ("GET", "/v1/nothing", None, "not-found", 404),
        ("DELETE", "/v1/histograms", None, "not-found", 404),
        ("PUT", "/v1/templates/none/content", None, "not-found", 404),
        ("POST", "/v1/templates/none/warm", None, "not-found", 404),
        ("POST", "/v1/clones", {"name": "web", "template": "none"}, "not-found", 404),
        ("POST", "/v1/clones", {"name": "web", "template": "a b"}, "invalid-input", 422),
        ("POST", "/v1/clones", {"name": "web"}, "invalid-input", 422),
        ("POST", "/v1/clones", {"name": "web", "template": "t", "count": 0}, "invalid-input", 422),
        ("POST", "/v1/clones", {"name": "web", "template": "t", "colour": "red"}, "invalid-input", 422),
        ("PATCH", "/v1/clones", {}, "invalid-input", 405),
        ("POST", "/v1/templates", {"name": "t", "format": "vmdk", "source": {"kind": "upload"}}, "invalid-input", 422),
        ("GET", "/v1/clients/none", None, "not-found", 404),
        ("POST", "/v1/clients/local/certificates", {}, "refused", 403),
        ("POST", "/v1/clients/local/certificates", {"seconds": 1}, "invalid-input", 422),
        ("POST", "/v1/clients/none/revocations", {"which": "all"}, "not-found", 404),
        ("PUT", "/v1/clients/local", {"transport": "tcp", "plain": True}, "refused", 403),
        ("DELETE", "/v1/clients/local", None, "refused", 403),
    ],
)
def test_errors_are_problems(api: Client, method: str, path: str, body: object, code: str, status: int) -> None:
    details = problem(api.request(method, path, json=body))
    assert (details.type, details.status) == (code, status)


def test_a_bug_is_a_problem_too(api: Client, appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(appliance.service, "list_clones", broken)
    assert problem(api.get("/v1/clones")).status == 500


def test_every_error_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HatcheryError)]
    assert {kind.code: status_of(kind.code) for kind in kinds if status_of(kind.code) != 500} == {
        "invalid-input": 422,
        "bad-image": 422,
        "not-found": 404,
        "already-exists": 409,
        "in-use": 409,
        "refused": 403,
        "no-space": 507,
        "not-ready": 503,
        "deadline": 504,
        "cancelled": 409,
    }
    assert set(STATUS) <= set(kinds)


def test_status_tells_the_worst(api: Client, appliance: Box) -> None:
    status = schema.Status.model_validate(api.get("/v1/status").json())
    assert (status.health, status.problems) == ("ok", ())
    assert [client.name for client in status.clients] == ["local"]
    appliance.units.kill("local")
    status = schema.Status.model_validate(api.get("/v1/status").json())
    assert status.health == "failed"
    assert "client local" in status.problems[0].what


def test_counters_and_cold(api: Client, appliance: Box) -> None:
    assert schema.Counters.model_validate(api.get("/v1/counters").json()).backend.name == "md127"
    begun = api.post("/v1/cache/cold")
    assert begun.status_code == 202
    assert finished(api, appliance, begun.json()["id"]).state == "succeeded"
    assert appliance.store.cold_calls == 1


def test_histograms_count_from_start_to_stop(api: Client, appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: object) -> None:
        raise errors.NotReady("disks have no histograms here")

    monkeypatch.setattr("appliance.host.biolatency.Biolatency.start", absent)
    upload(api, "debian")
    finished(api, appliance, api.get("/v1/operations").json()["operations"][0]["id"])
    api.post("/v1/clones", json={"name": "web", "template": "debian"})
    appliance.store.latencies[2] = Histogram((1, 2, 3))
    assert api.post("/v1/histograms").status_code == 201
    assert problem(api.post("/v1/histograms")).type == "in-use"
    appliance.store.latencies[2] = Histogram((1, 4, 3, 1))
    counted = schema.Histograms.model_validate(api.delete("/v1/histograms").json())
    assert [(c.clone, c.histogram.counts) for c in counted.clones] == [("web", (0, 2, 0, 1))]
    assert counted.disks == ()
    assert "no histograms here" in counted.disks_missing


def test_histograms_of_who_was_killed_end_by_themselves(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: object) -> None:
        raise errors.NotReady("disks have no histograms here")

    monkeypatch.setattr("appliance.host.biolatency.Biolatency.start", absent)
    assert problem(api.get("/v1/histograms")).type == "not-found"
    begun = api.post("/v1/histograms", json={"owner": "process 5 of hv1", "seconds": 600})
    running = schema.HistogramsStarted.model_validate(begun.json())
    assert running.ends == running.started + 600
    assert schema.HistogramsStarted.model_validate(api.get("/v1/histograms").json()) == running
    assert "process 5 of hv1" in problem(api.post("/v1/histograms")).detail
    assert api.delete("/v1/histograms").status_code == 200
    assert api.post("/v1/histograms", json={"seconds": 0.01}).status_code == 201
    until(lambda: api.get("/v1/histograms").status_code == 404, "the histograms to end", deadline=10)
    assert api.post("/v1/histograms", json={"seconds": 600}).status_code == 201


def test_where_disks_are_not_traced_their_statistics_stand_in(
    api: Client, appliance: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: object) -> None:
        raise errors.NotReady("disks have no histograms here")

    monkeypatch.setattr("appliance.host.biolatency.Biolatency.start", absent)
    appliance.store.disk_counts = {"ubda": Histogram((0, 5)), "sdx": Histogram((9,))}
    api.post("/v1/histograms")
    counted = schema.Histograms.model_validate(api.delete("/v1/histograms").json())
    # The model counts one request more at each look.
    assert [(d.role, d.disk, d.histogram.counts[0]) for d in counted.disks] == [("cache", "ubda", 1)]
    assert "means of a few seconds" in counted.disks_missing
    status = schema.Status.model_validate(api.get("/v1/status").json())
    assert [(d.role, d.disk, d.histogram.counts) for d in status.disks] == [("cache", "ubda", (2, 5))]


def test_the_api_describes_itself_completely(api: Client) -> None:
    described = api.get("/v1/openapi.json").json()
    table = [line for line in (schema.__doc__ or "").splitlines() if "->" in line]
    routes = {tuple(line.split()[:2]) for line in table}
    found = {
        (method.upper(), path.removeprefix("/v1")) for path, methods in described["paths"].items() for method in methods
    }
    wanted = {(method, path.split("?")[0].replace("operations/{id}", "operations/{number}")) for method, path in routes}
    assert found == wanted


def test_a_wrong_method_is_told_all_that_are_allowed(api: Client) -> None:
    assert api.patch("/v1/clones").headers["allow"] == "GET, POST"
    assert api.post("/v1/clones/web/attachment").headers["allow"] == "DELETE, PUT"
    assert api.delete("/v1/openapi.json").headers["allow"] == "GET", "which is not among those it describes"
    assert problem(api.patch("/v1/clones")).type == "invalid-input"
