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
    |- Cancelled             somebody wanted it no more, and it was taken back
    `- CommandFailed         a program ended with an error that nobody above gave a better name
"""

from typing import ClassVar


class HatcheryError(Exception):
    """Base of all errors that are meant to be read by an operator.

    ``what`` failed (a short sentence), ``why`` (the cause as far as known), ``hint`` (what to do next). Who raises one
    where nothing better is known leaves the hint out: then it is its class's ``next_step``.
    """

    code: ClassVar[str] = "error"
    next_step: ClassVar[str] = (
        "see `journalctl -u hatcheryd` on the appliance; `hatchery support-bundle` collects what is needed to report it"
    )

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint or self.next_step

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f": {self.why}"
        # What holds for the whole class is for who reads the error itself, and not for a line in a log.
        if self.hint != self.next_step:
            text += f" ({self.hint})"
        return text


class InvalidInput(HatcheryError):
    """The caller gave something that can never work."""

    code = "invalid-input"
    next_step = "correct it and try again; `--help` of the command says what it takes"


class BadImage(InvalidInput):
    """An image is damaged, hostile, or of a kind that is not accepted."""

    code = "bad-image"
    next_step = "make the image anew, or convert it with `qemu-img convert`"


class NotFound(HatcheryError):
    """The named thing does not exist."""

    code = "not-found"
    next_step = "is its name right, and is it still there?"


class AlreadyExists(HatcheryError):
    """The name is taken."""

    code = "already-exists"
    next_step = "choose another name, or remove what has this one"


class InUse(HatcheryError):
    """Something or somebody depends on it; ``why`` says who."""

    code = "in-use"
    next_step = "try again when it is free"


class Refused(HatcheryError):
    """It could be done, but it would break a rule of the store."""

    code = "refused"
    next_step = "the rules are in docs/architecture.md; `hatchery doctor` holds the appliance against them"


class NoSpace(HatcheryError):
    """It does not fit; ``why`` says how much is missing."""

    code = "no-space"
    next_step = "remove clones or templates, or add a disk; see `hatchery gc --dry-run`"


class NotReady(HatcheryError):
    """The store or a service is down, or was never deployed."""

    code = "not-ready"
    next_step = "see `hatchery status`, and `systemctl status hatchery-store hatcheryd` on the appliance"


class Unhealthy(HatcheryError):
    """The kernel's state is not what it was told to be."""

    code = "unhealthy"
    next_step = "run `hatchery doctor`, and see `journalctl -k` on the appliance"


class CannotTell(HatcheryError):
    """A question could not be answered. This is never the same as an empty answer."""

    code = "cannot-tell"
    next_step = "try again; if it stays so, run `hatchery doctor`"


class DeadlineExceeded(HatcheryError):
    """An awaited event did not come in time."""

    code = "deadline"
    next_step = "try again; if it happens again, run `hatchery doctor`"


class Cancelled(HatcheryError):
    """Somebody wanted it no more before it was done. Nothing half done is left."""

    code = "cancelled"
    next_step = "begin it again if it is wanted after all"


class CommandFailed(HatcheryError):
    """A program ended with a non-zero status (or was killed)."""

    code = "command-failed"
    next_step = "see `journalctl -b` on the appliance, where it was run"

    def __init__(self, command: str, returncode: int, stderr: str) -> None:
        tail = "\n".join(stderr.strip().splitlines()[-5:])
        super().__init__(f"`{command}` ended with status {returncode}", why=tail)
        self.command = command
        self.returncode = returncode
        self.stderr = stderr
