"""Parts of one page that different programs write: each replaces its own, between two comments, and no other. Pure."""

import re

_BEGIN, _END = "<!-- {}: begin -->", "<!-- {}: end -->"


def put(page: str, name: str, body: str) -> str:
    """The page with the section ``name`` in its place, or at its end when it has none yet."""
    section = _framed(name, body)
    found = _pattern(name).search(page)
    if found:
        return page[: found.start()] + section + page[found.end() :]
    return f"{page.rstrip()}\n\n{section}\n"


def carry(before: str, page: str) -> str:
    """A page that was written anew, with the sections that the one before had besides."""
    for name in re.findall(r"<!-- (\w+): begin -->", before):
        found = _pattern(name).search(before)
        if found and not _pattern(name).search(page):
            page = put(page, name, found.group(1))
    return page


def _framed(name: str, body: str) -> str:
    return f"{_BEGIN.format(name)}\n\n{body.strip()}\n\n{_END.format(name)}"


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"{_BEGIN.format(name)}(.*?){_END.format(name)}", re.DOTALL)
