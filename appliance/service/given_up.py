"""An update that was given up, as a problem: what `hatchery-update verdict` left after the start."""

from pathlib import Path

from appliance.model import Health, Problem

HINT = (
    "make a better bundle, or try this one again with --again: see docs/update.md; "
    "`hatchery-update dismiss` takes this away"
)


def problems(file: Path) -> tuple[Problem, ...]:
    """What an operator should know of the last update; nothing when it went well, or there was none."""
    try:
        words = " ".join(file.read_text(encoding="utf-8", errors="replace").split())
    except FileNotFoundError:
        return ()
    except OSError as error:
        words = f"why the last update was given up cannot be read: {error}"
    return (Problem(Health.DEGRADED, words, HINT),) if words else ()
