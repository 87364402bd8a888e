"""Stills: disks as they were at one moment, for who copies them out."""

from pydantic import Field

from appliance.schema.base import Model


class StillView(Model):
    """A disk as it was at one moment, offered read-only until it is deleted, or nobody reads it any more."""

    id: str
    subject: str = Field(description="In words: template debian@1, clone web")
    size: int = Field(description="Virtual size: what is read from it")
    data_bytes: int = Field(description="How much of that is more than holes, at most")
    uri: str = Field(description="NBD URI, a unix socket on the appliance")
    created: float


class StillList(Model):
    """Stills, the oldest first."""

    stills: tuple[StillView, ...]
