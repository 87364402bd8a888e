"""Errors as HTTP knows them: problem+json (RFC 9457). The only place that knows HTTP's status codes."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from appliance import errors
from appliance.errors import HatcheryError
from appliance.schema import PROBLEM_TYPE, OperationError, ProblemDetails

log = logging.getLogger(__name__)

STATUS: dict[type[HatcheryError], int] = {
    errors.InvalidInput: 422,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.InUse: 409,
    errors.Cancelled: 409,
    errors.Refused: 403,
    errors.NoSpace: 507,
    errors.NotReady: 503,
    errors.DeadlineExceeded: 504,
}
"""By class, the nearest one counts; all others are 500."""

TYPES: Mapping[str, type[HatcheryError]] = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HatcheryError)
}
"""Every type of problem that there is: the stable codes, in the order of ``appliance.errors``."""


class OperationFailed(HatcheryError):
    """The error of an operation, raised again for a request that waits for it."""

    def __init__(self, error: OperationError) -> None:
        super().__init__(error.what, why=error.why, hint=error.hint)
        self.operation_code = error.code


def code_of(error: HatcheryError) -> str:
    """The stable word for an error."""
    return error.operation_code if isinstance(error, OperationFailed) else error.code


def status_of(code: str) -> int:
    """The HTTP status of an error's code."""
    kind = TYPES.get(code, HatcheryError)
    return next((STATUS[each] for each in kind.__mro__ if each in STATUS), 500)


def answer(code: str, what: str, why: str, hint: str, status: int) -> JSONResponse:
    """A problem as a response."""
    details = ProblemDetails(type=code, title=what, detail=why, hint=hint, status=status)
    return JSONResponse(details.model_dump(), status_code=status, media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""

    @app.exception_handler(HatcheryError)
    def own(request: Request, error: HatcheryError) -> JSONResponse:
        code = code_of(error)
        status = status_of(code)
        level = logging.WARNING if status < 500 or status == 507 else logging.ERROR
        log.log(level, "%s %s: %s", request.method, request.url.path, error)
        request.state.problem = f"{code}: {error.what}"  # for the audit log
        return answer(code, error.what, error.why, error.hint, status)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        why = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
        what = f"{request.method} {request.url.path} was not understood"
        request.state.problem = f"{errors.InvalidInput.code}: {what}"
        return answer(errors.InvalidInput.code, what, why, "see /v1/openapi.json", 422)

    @app.exception_handler(HTTPException)
    def other(request: Request, error: HTTPException) -> JSONResponse:
        code = errors.NotFound.code if error.status_code == 404 else errors.InvalidInput.code
        what = f"{request.method} {request.url.path} is not a request of this API"
        response = answer(code, what, error.detail, "see /v1/openapi.json", error.status_code)
        if error.status_code == 405:
            # RFC 9110 wants them told, and the framework knows those of one route alone.
            response.headers["Allow"] = ", ".join(_allowed(request))
        return response

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        # The server logs it with its traceback after this answer.
        what = f"{request.method} {request.url.path} failed unexpectedly"
        return answer(
            HatcheryError.code, what, f"a fault of the program: {type(error).__name__}", HatcheryError.next_step, 500
        )


def _allowed(request: Request) -> list[str]:
    """The methods that the request's path takes, as the description has them: routes differ between releases."""
    described = request.app.openapi()["paths"].items()
    found = [methods for path, methods in described if compile_path(path)[0].match(request.scope["path"])]
    return sorted({method.upper() for methods in found for method in methods} or {"GET"})
