"""``script/image --test-boot``: what somebody runs before he carries the image to a box."""

import pytest

from appliance.run import Runner
from tests.appliance.conftest import image
from tests.appliance.site import ROOT
from tests.pages import Place, of


@pytest.mark.heavy
def test_the_image_is_booted_and_left_as_it_is() -> None:
    file = image("appliance")
    before = file.stat()
    [command] = of(Place.TRIED)
    done = Runner().run(["bash", "-c", f"cd '{ROOT}' && {command.text}"], timeout=3600)
    print(done.stdout)
    assert "first boot: login prompt after " in done.stdout
    assert ", no failed unit" in done.stdout
    assert "not deployed: there is no store yet" in done.stdout
    after = file.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
