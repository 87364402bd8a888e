"""Two builds of the same inputs, with the same packages, give the same /usr byte for byte."""

import hashlib
from pathlib import Path

import pytest

from appliance.run import Runner
from tests.appliance.site import ROOT


@pytest.mark.heavy
def test_two_builds_give_the_same_usr() -> None:
    assert built() == built()


def built() -> dict[str, str]:
    """Build the appliance from nothing but packages: digests of /usr and of the list of what is in it."""
    done = Runner().run([ROOT / "script/image", "appliance", "--force"], timeout=3600)
    folder = Path(done.stdout.strip().splitlines()[-1]).parent
    found = {}
    for name in ("appliance.usr_*.raw", "appliance.cdx.json"):
        (file,) = folder.glob(name)
        with file.open("rb") as opened:
            found[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found
