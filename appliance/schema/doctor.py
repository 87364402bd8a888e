"""The appliance held against the rules of its data path."""

from typing import Literal

from pydantic import Field

from appliance.schema.base import Model
from appliance.schema.store import ProblemView

CheckState = Literal["ok", "degraded", "failed", "unknown"]


class CheckView(Model):
    """Something that must hold, and what was found wrong with it."""

    rule: int | None = Field(description="Of the data path's rules (docs/architecture.md); None: it is none of them")
    what: str = Field(description="What must hold, in words")
    state: CheckState = Field(description="The worst of its problems; unknown when it could not be looked at")
    problems: tuple[ProblemView, ...]
    unseen: str = Field(
        default="", description="What of it a box that runs cannot show, and the tests that prove it; empty: nothing"
    )


class Examination(Model):
    """All checks, by their rules."""

    checks: tuple[CheckView, ...]
