"""Scripts of the image's build that can be run without one."""

import json

import pytest
from imagebuild import __main__ as script

from appliance.run import Runner
from tests.lint.files import ROOT


def epoch(version: str | None) -> int:
    """The time that the build is given for a version."""
    given = json.dumps({"ImageVersion": version, "Environment": {"LANG": "C"}, "Hostname": "hatchery"})
    found = json.loads(Runner().run([ROOT / "mkosi.configure"], stdin=given).stdout)
    assert found["Environment"] == {"LANG": "C", "SOURCE_DATE_EPOCH": str(found["SourceDateEpoch"])}
    assert (found["ImageVersion"], found["Hostname"]) == (version, "hatchery")
    return int(found["SourceDateEpoch"])


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("0.1.0", "0.1.1"),
        ("0.1.0", "0.1.0.1"),
        ("0.1.99", "0.2.0"),
        ("0.9.9", "1.0.0"),
        ("1.2", "1.10"),
        (None, "0.1.0"),
    ],
)
def test_a_newer_version_is_newer_to_systemd_and_the_same_is_the_same(older: str | None, newer: str) -> None:
    assert epoch(older) < epoch(newer)
    assert epoch(newer) == epoch(newer)


def test_test_boot_is_a_command_and_an_option() -> None:
    assert script.parse(["--test-boot"]) == script.parse(["test-boot"])
    with pytest.raises(SystemExit):
        script.parse(["appliance", "--test-boot"])
