"""What a service loads as it starts: nothing large that it may never need, for that is most of the time it takes."""

import sys

from appliance.run import Runner

LATER = {"httpx", "pyroute2", "rich", "typer", "jinja2"}
"""Who fetches, asks the kernel for connections, or draws, loads these then."""


def test_hatcheryd_starts_without_what_it_may_never_need() -> None:
    code = "import sys, appliance.daemon, appliance.api.app, appliance.api.server; print(*sys.modules)"
    loaded = Runner().run([sys.executable, "-c", code], timeout=60).stdout.split()
    assert "fastapi" in loaded
    assert LATER & set(loaded) == set()
