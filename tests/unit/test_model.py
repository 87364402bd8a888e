import pytest

from appliance.errors import InvalidInput
from appliance.model import Extent, TemplateRef, check_name


@pytest.mark.parametrize("name", ["a", "debian-13", "web.example_1", "0", "x" * 63])
def test_good_names_are_returned(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", ".a", "A", "a b", "a/b", "a@1", "ä", "x" * 64, "a\n", "..", "a\x00b", "%i", "$(reboot)"],
)
def test_names_that_could_do_harm_are_refused_and_say_why(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a valid clone name") as caught:
        check_name(name, "clone name")
    assert "a-z" in caught.value.why
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "name", "version"), [("debian-13", "debian-13", None), ("debian-13@3", "debian-13", 3)]
)
def test_a_reference_survives_parsing_and_printing(text: str, name: str, version: int | None) -> None:
    ref = TemplateRef.parse(text)
    assert (ref.name, ref.version) == (name, version)
    assert str(ref) == text


@pytest.mark.parametrize(
    "text", ["debian@", "debian@0", "debian@-1", "debian@1.5", "debian@x", "@3", "debian@1@2", "debian@²"]
)
def test_a_bad_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        TemplateRef.parse(text)


def test_an_extent_ends_before_its_end() -> None:
    assert Extent(4096, 512).end == 4608
