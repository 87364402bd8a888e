"""What all bodies share, errors, and long jobs."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr

API_PREFIX = "/v1"
"""All paths begin with it."""

LOCAL_CLIENT = "local"
"""The client that always exists: this machine, over a unix socket."""

PROBLEM_TYPE = "application/problem+json"
"""Media type of errors (RFC 9457)."""


class Model(BaseModel):
    """Base of all bodies: immutable, and unknown fields are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemDetails(Model):
    """An error: ``type`` is the stable code of ``appliance.errors``; what failed, why, and what to do."""

    type: str
    title: str
    detail: str = ""
    hint: str = ""
    status: int


class OperationError(Model):
    """Why an operation failed; the same words as in ``ProblemDetails``."""

    code: str
    what: str
    why: str = ""
    hint: str = ""


OperationKind = Literal["import", "warm", "learn", "cold", "promote", "gc", "fetch", "create"]
OperationState = Literal["running", "succeeded", "failed", "cancelled"]


class Operation(Model):
    """A job that outlives its request. Kept for the daemon's life, the oldest finished ones dropped."""

    id: str
    kind: OperationKind
    subject: str = Field(description="What it works on, for example a template reference")
    state: OperationState
    phase: str = Field(description="What it is doing now, in words")
    done_bytes: int = 0
    total_bytes: int | None = Field(default=None, description="None while unknown")
    counts: str = Field(default="", description="What is counted instead of bytes, for example boots; else empty")
    done_count: int = 0
    total_count: int | None = Field(default=None, description="None while unknown, and where bytes are counted")
    started: float
    finished: float | None = None
    cancellable: bool = Field(default=False, description="Whether a cancel would be taken now")
    error: OperationError | None = Field(default=None, description="Why it failed, or that it was cancelled")


class OperationList(Model):
    """Operations, newest first."""

    operations: tuple[Operation, ...]


class Removal(Model):
    """Answer to DELETE: whether there was something to remove."""

    name: str
    removed: bool


Revealed = Annotated[SecretStr, PlainSerializer(SecretStr.get_secret_value, return_type=str, when_used="json")]
"""A secret that its JSON shows as it is, and nothing else does."""
