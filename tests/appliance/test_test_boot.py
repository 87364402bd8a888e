"""``script/image --test-boot``: what somebody runs before he carries the image to a box."""

import pytest

from appliance.run import Runner
from tests.appliance.conftest import image
from tests.appliance.site import ROOT


@pytest.mark.heavy
def test_the_image_is_booted_and_left_as_it_is() -> None:
    file = image("appliance")
    before = file.stat()
    done = Runner().run([ROOT / "script/image", "--test-boot"], timeout=3600)
    print(done.stdout)
    assert "first boot: login prompt after " in done.stdout
    assert ", no failed unit" in done.stdout
    assert "not deployed: there is no store yet" in done.stdout
    after = file.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
