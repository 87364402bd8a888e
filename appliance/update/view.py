"""How the slots stand, in words and for programs."""

from typing import Any

from appliance.update.plan import WENT_BACK
from appliance.update.record import Trial
from appliance.update.slots import Slots, Uki


def state(uki: Uki, slots: Slots) -> str:
    """How a version stands."""
    if uki.version == slots.running:
        if uki.good:
            return "runs"
        return "runs, on trial" if uki.counted else "runs though it was given up"
    if uki.given_up:
        return "given up"
    return "is started next" if slots.next() == uki.version else "can be gone back to"


def verdict(slots: Slots, trial: Trial | None) -> str | None:
    """Why the version that was put on trial last was given up; None when it was not."""
    if trial is None or not any(uki.given_up and str(uki.version) == trial.version for uki in slots.others):
        return None
    reasons = trial.reasons or ("no start of it came so far that it could say why: see the console",)
    return f"version {trial.version} was given up, and version {slots.running} runs: {' | '.join(reasons)}"


def own_verdict(slots: Slots, trial: Trial | None) -> str | None:
    """The same where the appliance fell back by itself: None when an operator went back."""
    if trial is not None and trial.reasons == (WENT_BACK,):
        return None
    return verdict(slots, trial)


def as_json(slots: Slots, trial: Trial | None) -> dict[str, Any]:
    """Plain values for JSON. ``given_up`` is why the last update failed; None when it did not."""
    current = slots.current
    return {
        "running": str(slots.running),
        "good": current is not None and current.good,
        "next": None if (following := slots.next()) is None else str(following),
        "slots": [{"version": str(uki.version), "state": state(uki, slots)} for uki in reversed(slots.ukis)],
        "given_up": verdict(slots, trial),
    }


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"version {slot['version']} {slot['state']}" for slot in found["slots"]]
    if found["given_up"]:
        lines.append(found["given_up"])
    return "".join(f"{line}\n" for line in lines)
