"""What script/test says at the end, from pytest's JUnit files: what failed, a line for each tier, and a verdict.

A tier without a result, or without a single test that ran, has failed; with CI=true so has one that skipped a test.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

_WORDS = 600
"""Of what a test said as it failed, the beginning: a log that is cut off above must still tell what went wrong."""


@dataclass(frozen=True)
class Outcome:
    """How many tests of a tier passed, failed and were skipped, how long it took in seconds, and what failed how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failures: tuple[str, ...] = field(default=(), compare=False)

    @property
    def ran(self) -> int:
        """Tests that were not skipped."""
        return self.passed + self.failed


def read(file: Path) -> Outcome | None:
    """Read a JUnit file; None if pytest did not get as far as writing a complete one."""
    try:
        root = ET.parse(file).getroot()  # noqa: S314 -- written a moment ago by our own pytest
        suites = list(root.iter("testsuite"))
    except (FileNotFoundError, ET.ParseError):
        return None
    total = failed = skipped = 0
    seconds = 0.0
    for suite in suites:
        total += int(suite.get("tests", "0"))
        failed += int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
        skipped += int(suite.get("skipped", "0"))
        seconds += float(suite.get("time", "0"))
    failures = tuple(_failures(root))
    return Outcome(max(total - failed - skipped, 0), failed, skipped, seconds, failures)


def _failures(root: ET.Element) -> Iterator[str]:
    for case in root.iter("testcase"):
        for found in (*case.iter("failure"), *case.iter("error")):
            words = " ".join((found.get("message") or found.text or "").split())
            yield f"{case.get('classname')}::{case.get('name')}: {words[:_WORDS]}"


def verdict(outcome: Outcome | None, *, ci: bool) -> str:
    """Return why a tier counts as failed, or an empty string."""
    if outcome is None:
        return "gave no result"
    if outcome.failed:
        return "failed"
    if ci and outcome.skipped:
        return "skipped tests, which CI does not allow"
    if ci and not outcome.ran:
        return "ran no test"
    return ""


def main(argv: Sequence[str]) -> int:
    """Print the summary of the tiers ``argv[1:]`` whose JUnit files are in the folder ``argv[0]``."""
    ci = os.environ.get("CI") == "true"
    folder, tiers = Path(argv[0]), argv[1:]
    outcomes = {tier: read(folder / f"{tier}.xml") for tier in tiers}
    bad = False
    for outcome in outcomes.values():
        for failure in outcome.failures if outcome else ():
            print(f"failed: {failure}")
    print("== summary")
    for tier, outcome in outcomes.items():
        reason = verdict(outcome, ci=ci)
        bad = bad or bool(reason)
        shown = outcome or Outcome()
        print(
            f"{tier:10} {shown.passed:4} passed {shown.failed:3} failed {shown.skipped:3} skipped"
            f" {shown.seconds:7.1f} s  {reason or 'ok'}"
        )
    known = [outcome for outcome in outcomes.values() if outcome]
    unknown = len(outcomes) - len(known)
    print(
        f"{sum(o.passed for o in known)} passed, {sum(o.failed for o in known) + unknown} failed,"
        f" {sum(o.skipped for o in known)} skipped"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
