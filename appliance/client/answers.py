"""What answers other than good ones mean: every problem is raised as the error that the service raised."""

import httpx
from pydantic import ValidationError

from appliance import schema
from appliance.errors import CannotTell, HatcheryError, NotReady


def error_named(code: str, what: str, why: str = "", hint: str = "") -> HatcheryError:
    """The error of this ``code``; an unknown code (a newer appliance) becomes a plain HatcheryError."""
    kinds = [HatcheryError]
    for kind in kinds:  # grows while it is walked: the whole tree
        kinds.extend(kind.__subclasses__())
        if kind.code == code:
            # One class makes its words of what it is given; here they are made already.
            made = kind.__new__(kind)
            HatcheryError.__init__(made, what, why=why, hint=hint)
            return made
    return HatcheryError(what, why=why, hint=hint)


def problem(response: httpx.Response) -> HatcheryError:
    """The error that a response other than 2xx stands for."""
    try:
        details = schema.ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        return CannotTell(
            f"the appliance answered with status {response.status_code}",
            why=response.text.strip()[:300],
            hint="client and appliance are of different versions?",
        )
    return error_named(details.type, details.title, details.detail, details.hint)


def operation_error(error: schema.OperationError) -> HatcheryError:
    """The error that a failed job stands for."""
    return error_named(error.code, error.what, error.why, error.hint)


def not_running(why: str) -> NotReady:
    """The error when nobody listens."""
    return NotReady(
        "the service cannot be reached",
        why=why,
        hint="is hatcheryd running (systemctl status hatcheryd), and may this user use /run/hatchery/api.sock?",
    )
