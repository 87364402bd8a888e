"""Learning boot sets from boots."""

from pydantic import Field

from appliance.schema.base import Model


class LearnRequest(Model):
    """How many boots are to be recorded."""

    runs: int = Field(default=3, ge=1, le=20)


class LearningView(Model):
    """Boots of a template that are still wanted."""

    missing: int
    listening: int = Field(description="Clones whose boots would be recorded")
    recording: tuple[str, ...] = Field(description="Those of them that are booting")
    cannot: str = Field(default="", description="Why nothing can be recorded, in words; empty: it can")
