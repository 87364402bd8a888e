"""What a tier needs: a missing thing skips its tests on a user's machine and fails them in CI."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """End the test: skipped with ``reason``, or failed when CI=true, where a skipped tier would prove nothing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have it: {reason}", pytrace=False)
    pytest.skip(reason)


def require(condition: object, reason: str) -> None:
    """Go on only if ``condition`` holds; ``reason`` says what is missing and how to get it."""
    if not condition:
        missing(reason)
