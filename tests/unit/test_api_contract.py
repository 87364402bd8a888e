"""The API keeps to its own description, whatever is sent: good requests, bad ones, and the same one again."""

from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from appliance import errors, schema
from appliance.api.app import make_app
from appliance.errors import HatcheryError
from appliance.service.service import Service
from tests.unit.service_harness import Box, box

DESCRIPTION = make_app(Service.__new__(Service)).openapi()
ROUTES = [(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods]
KNOWN = {"ref": "debian", "name": "web", "number": "none"}
"""Names in a path that are there."""

HELD = [
    checks.allow_header_conformance,
    checks.content_type_conformance,
    checks.negative_data_rejection,
    checks.response_schema_conformance,
    checks.status_code_conformance,
    checks.unsupported_method,
]

EXAMPLES = 6
"""Requests for each route; what they are is the same in each run."""

ENDLESS = "/v1/events"
"""Its answer has an end if it is asked for one, and is asked for one here."""

ENDING = {"cold", "create", "gc", "promote", "warm"}
"""Operations that end by themselves; the others wait for an upload, or for boots."""


class Unreachable:
    """A source that answers nothing: no test goes to the network."""

    def __init__(self, url: str) -> None:
        raise errors.NotFound(f"{url} does not answer", why="it is made up", hint="give another one")


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    def absent(_: object) -> NoReturn:
        raise errors.NotReady("disks have no histograms here")

    with pytest.MonkeyPatch.context() as patch, box(tmp_path_factory.mktemp("contract")) as made:
        patch.setattr("appliance.host.biolatency.Biolatency.start", absent)
        patch.setattr(made.service.imports, "_open_url", Unreachable)
        made.add_template("debian")
        made.service.create_clones(schema.CloneCreate(name="web", template="debian"))
        yield made
        for operation in made.service.operations.list():
            if operation.kind in ENDING:
                assert made.service.operations.job(operation.id).finished.wait(20), operation


@pytest.fixture(scope="module")
def described(appliance: Box) -> OpenApiSchema:
    return schemathesis.openapi.from_asgi("/v1/openapi.json", make_app(appliance.service))


@pytest.mark.parametrize(("path", "method"), ROUTES, ids=[f"{method.upper()} {path}" for path, method in ROUTES])
def test_every_answer_is_as_described(described: OpenApiSchema, path: str, method: str) -> None:
    operation = described[path][method]
    known = {name: value for name, value in KNOWN.items() if f"{{{name}}}" in path}
    cases = st.one_of(
        operation.as_strategy(GenerationMode.POSITIVE),
        operation.as_strategy(GenerationMode.NEGATIVE),
        operation.as_strategy(GenerationMode.POSITIVE, path_parameters=known or None),
    )

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def holds(case: "Case[Any]") -> None:
        if path == ENDLESS and str(case.query.get("follow", "true")).lower() in ("true", "1", "on", "t", "y", "yes"):
            case.query = {**case.query, "follow": "false"}
        response = case.call()
        case.validate_response(response, checks=HELD)
        if response.status_code >= 400:
            details = schema.ProblemDetails.model_validate_json(response.content)
            assert details.status == response.status_code
            assert details.title
            assert details.type != HatcheryError.code, "a bug, or an error without a name"

    holds()
