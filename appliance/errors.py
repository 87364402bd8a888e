"""The errors of Hatchery.

Every error says what failed, why, and what to do about it. ``code`` is a stable word for programs; the API maps it
to an HTTP status and the CLI to an exit status, and nothing else does.

    HatcheryError
    |- InvalidInput          the caller gave something that can never work
    |  `- BadImage           an image file is damaged, hostile or of an unsupported kind
    |- NotFound              the named thing does not exist
    |- AlreadyExists         the name is taken
    |- InUse                 somebody depends on it: says who
    |- Refused               possible, but it would break a rule (foreign signature, system disk, old kernel, ...)
    |- NoSpace               it does not fit; says how much is missing
    |- NotReady              the store or a service is down, or not deployed yet
    |- Unhealthy             the kernel's state contradicts what was asked of it
    |- CannotTell            a question could not be answered; never to be read as "no"
    |- DeadlineExceeded      an awaited event did not come in time
    `- CommandFailed         a program ended with an error that nobody above gave a better name
"""

from typing import ClassVar


class HatcheryError(Exception):
    """Base of all errors that are meant to be read by an operator.

    ``what`` failed (a short sentence), ``why`` (the cause as far as known), ``hint`` (what to do next).
    """

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        if self.hint:
            text += f" ({self.hint})"
        return text


class InvalidInput(HatcheryError):
    """The caller gave something that can never work."""

    code = "invalid-input"


class BadImage(InvalidInput):
    """An image is damaged, hostile, or of a kind that is not accepted."""

    code = "bad-image"


class NotFound(HatcheryError):
    """The named thing does not exist."""

    code = "not-found"


class AlreadyExists(HatcheryError):
    """The name is taken."""

    code = "already-exists"


class InUse(HatcheryError):
    """Something or somebody depends on it; ``why`` says who."""

    code = "in-use"


class Refused(HatcheryError):
    """It could be done, but it would break a rule of the store."""

    code = "refused"


class NoSpace(HatcheryError):
    """It does not fit; ``why`` says how much is missing."""

    code = "no-space"


class NotReady(HatcheryError):
    """The store or a service is down, or was never deployed."""

    code = "not-ready"


class Unhealthy(HatcheryError):
    """The kernel's state is not what it was told to be."""

    code = "unhealthy"


class CannotTell(HatcheryError):
    """A question could not be answered. This is never the same as an empty answer."""

    code = "cannot-tell"


class DeadlineExceeded(HatcheryError):
    """An awaited event did not come in time."""

    code = "deadline"


class CommandFailed(HatcheryError):
    """A program ended with a non-zero status (or was killed)."""

    code = "command-failed"

    def __init__(self, command: str, returncode: int, stderr: str) -> None:
        tail = "\n".join(stderr.strip().splitlines()[-5:])
        super().__init__(f"`{command}` ended with status {returncode}", why=tail)
        self.command = command
        self.returncode = returncode
        self.stderr = stderr
