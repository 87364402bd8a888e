"""Words as roff has them (man(7), man-pages(7))."""

import textwrap

_GENERATED = '.\\" Made by script/reference from the commands; do not edit.\n'


def head(title: str, sentence: str, section: int = 1) -> list[str]:
    """A page's beginning: its title, and what it is about."""
    heading = f'.TH {escaped(title.upper())} {section} "" "Hatchery" "Hatchery"'
    return [
        _GENERATED + heading,
        ".nh",
        ".SH NAME",
        f"{escaped(title)} \\- {escaped(sentence[:1].lower() + sentence[1:-1])}",
    ]


def wrapped(text: str) -> list[str]:
    """A paragraph in lines."""
    lines = textwrap.wrap(" ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False)
    return [escaped(line) for line in lines]


def escaped(text: str) -> str:
    """Text as roff shows it: a line must not begin with a control character, and hyphens are to be copied."""
    safe = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq").replace("~", "\\(ti")
    )
    return f"\\&{safe}" if safe.startswith(".") else safe
