"""What a service loads as it starts: nothing large that it may never need, for that is most of the time it takes."""

import sys

import pytest

from appliance.run import Runner

LATER = {"httpx", "pyroute2", "rich", "typer", "jinja2"}
"""Who fetches, asks the kernel for connections, or draws, loads these then."""

BEFORE_EXPORTS = {
    "appliance.rescue.main": (
        "appliance.store.start",
        {"pydantic", "sqlite3", "tarfile", "appliance.store.setup", "appliance.store.remove", "appliance.host.units"},
    ),
    "appliance.daemon": ("pydantic", {"fastapi", "starlette", "uvicorn"}),
    "appliance.nbd_server": ("appliance.host.storage_daemon", {"pydantic", "sqlite3"}),
}
"""What guests wait for after a power cut, one after the other: what each does load then, and what it does not."""


def loaded_by(modules: str) -> set[str]:
    code = f"import sys, {modules}; print(*sys.modules)"
    return set(Runner().run([sys.executable, "-c", code], timeout=60).stdout.split())


def test_hatcheryd_starts_without_what_it_may_never_need() -> None:
    loaded = loaded_by("appliance.daemon, appliance.api.app, appliance.api.server")
    assert "fastapi" in loaded
    assert LATER & loaded == set()


@pytest.mark.parametrize("program", BEFORE_EXPORTS)
def test_guests_get_their_exports_without_waiting_for_what_is_not_for_them(program: str) -> None:
    needed, later = BEFORE_EXPORTS[program]
    loaded = loaded_by(program)
    assert needed in loaded
    assert (later | LATER) & loaded == set()
