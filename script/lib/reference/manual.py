"""Manual pages of the commands, from the same source as ``--help`` (man(7), man-pages(7)).

Tools that do it read click's own classes, which newer releases of typer do not use any more. What is read here is in
all of them.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

import typer.main

from appliance.cli.main import EXIT_STATUS, INTERRUPTED, READER_GONE, app

PROGRAM = "hatchery"

_GENERATED = '.\\" Made by script/reference from the commands; do not edit.\n'
_TYPERS_OWN = {"install_completion", "show_completion"}
"""Options whose words differ between releases of typer."""

_ENVIRONMENT = {
    "HATCHERY_HOST": "The appliance to speak with, as with \\-\\-host.",
    "HATCHERY_SOCKET": "The API's unix socket on the appliance, as with \\-\\-socket.",
    "HATCHERY_SSH_OPTIONS": "Further options for ssh, written as on a shell's command line.",
}


def pages() -> dict[str, str]:
    """Each page's file name and text: one for the program, and one for each of its first words."""
    root: Any = typer.main.get_command(app)
    first = dict(root.commands)
    made = {f"{PROGRAM}.1": _root(root, first)}
    for word, command in first.items():
        made[f"{PROGRAM}-{word}.1"] = _page(word, command)
    return made


def _root(root: Any, first: dict[str, Any]) -> str:
    lines = [
        *head(PROGRAM, _sentence(root)),
        ".SH SYNOPSIS",
        f".B {PROGRAM}",
        "[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        "It speaks with the API of a Hatchery appliance, and with nothing else: on the appliance without an option,",
        "from anywhere else through SSH.",
        ".SH COMMANDS",
    ]
    for word, command in first.items():
        lines += [".TP", f"\\fB{PROGRAM}\\-{escaped(word)}\\fR(1)", escaped(_sentence(command))]
    lines += [".SH OPTIONS", *_options(root)]
    lines += [".TP", "\\fB\\-\\-install\\-completion\\fR, \\fB\\-\\-show\\-completion\\fR"]
    lines += ["Make the shell complete commands and options, or print what makes it."]
    lines += [".SH ENVIRONMENT"]
    for name, words in _ENVIRONMENT.items():
        lines += [".TP", f".B {name}", words]
    return "\n".join([*lines, *_statuses()]) + "\n"


def _page(word: str, command: Any) -> str:
    title = f"{PROGRAM}-{word}"
    lines = [*head(title, _sentence(command)), ".SH SYNOPSIS"]
    every = list(_leaves(command, (PROGRAM, word)))
    for path, leaf in every:
        lines += [".PP", f"\\fB{escaped(' '.join(path))}\\fR{_usage(leaf)}"]
    for path, leaf in every:
        if len(every) > 1:
            lines += [f'.SH "{escaped(" ".join(path)).upper()}"']
        else:
            lines += [".SH DESCRIPTION"]
        lines += [*wrapped(leaf.help or ""), *_options(leaf)]
    lines += [".SH SEE ALSO", f".BR {PROGRAM} (1)"]
    return "\n".join(lines) + "\n"


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path, command
    for name, child in children.items():
        yield from _leaves(child, (*path, name))


def head(title: str, sentence: str, section: int = 1) -> list[str]:
    """A page's beginning: its title, and what it is about."""
    heading = f'.TH {escaped(title.upper())} {section} "" "Hatchery" "Hatchery"'
    return [
        _GENERATED + heading,
        ".nh",
        ".SH NAME",
        f"{escaped(title)} \\- {escaped(sentence[:1].lower() + sentence[1:-1])}",
    ]


def _sentence(command: Any) -> str:
    """The first sentence of what a command says of itself."""
    text = " ".join((command.help or "").split())
    return text.split(". ", 1)[0].rstrip(".") + "."


def _usage(command: Any) -> str:
    words = " [\\fIOPTION\\fR]..." if any(_is_option(each) for each in command.params) else ""
    for each in command.params:
        if not _is_option(each):
            name = escaped(each.metavar or each.name.upper())
            words += f" \\fI{name}\\fR" if each.required or name.startswith("[") else f" [\\fI{name}\\fR]"
    return words


def _options(command: Any) -> Iterator[str]:
    """Arguments that need words, and options."""
    for each in command.params:
        words = getattr(each, "help", None)
        if getattr(each, "hidden", False) or each.name in _TYPERS_OWN or not words:
            continue
        if _is_option(each):
            names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in (*each.opts, *each.secondary_opts))
            value = "" if each.is_flag else f" \\fI{escaped(each.metavar or each.name.upper())}\\fR"
        else:
            names, value = f"\\fI{escaped(each.metavar or each.name.upper())}\\fR", ""
        yield ".TP"
        yield names + value
        yield from wrapped(words + (" It is required." if _is_option(each) and each.required else ""))


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _statuses() -> Iterator[str]:
    codes: dict[int, list[str]] = {}
    for code, status in EXIT_STATUS.items():
        codes.setdefault(status, []).append(code)
    known = {0: "done", INTERRUPTED: "interrupted"}
    known[READER_GONE] = "who read the output went away"
    known |= {status: f"an error with the code {' or '.join(names)}" for status, names in codes.items()}
    yield ".SH EXIT STATUS"
    for status, words in sorted(known.items()):
        yield from (".TP", f".B {status}", escaped(words))


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
