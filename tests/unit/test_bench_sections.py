"""Sections of a page that several programs write."""

from bench import sections

PAGE = "# Results\n\nOf the demo.\n"


def test_a_section_is_added_and_replaced_and_nothing_else_changes() -> None:
    first = sections.put(PAGE, "peers", "one")
    assert first == f"{PAGE}\n<!-- peers: begin -->\n\none\n\n<!-- peers: end -->\n"
    assert sections.put(first + "\nmore\n", "peers", "two\n") == first.replace("one", "two") + "\nmore\n"


def test_a_page_that_is_written_anew_keeps_the_sections_of_others() -> None:
    before = sections.put(sections.put(PAGE, "peers", "one"), "learn", "two")
    after = sections.carry(before, "# Results\n\nAnother run.\n")
    assert after.startswith("# Results\n\nAnother run.\n")
    assert after.index("one") < after.index("two")
    assert sections.carry(before, before) == before
