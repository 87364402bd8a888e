"""Manual pages of the programs that read their command line with argparse, from their own parsers."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.attach import main as attach
from appliance.rescue import main as store
from appliance.update import main as update
from reference.manual import escaped, head, wrapped


@dataclass(frozen=True, slots=True)
class Program:
    """A program, the section of the manual that it belongs to, and what its exit statuses mean."""

    parser: argparse.ArgumentParser
    section: int
    statuses: dict[int, str]
    see: tuple[str, ...]


def programs() -> tuple[Program, ...]:
    """All of them. Those in section 8 are the appliance's own; ``hatchery store`` has a page in section 1."""
    wrong = "an error that says why, before anything was half done; or the command line is wrong"
    return (
        Program(
            attach.parser(),
            1,
            {
                attach.OK: "done",
                attach.FAILED: "an error that says why, with nothing half done",
                2: "the command line is wrong",
                attach.INTERRUPTED: "interrupted",
            },
            ("hatchery (1)", "hatchery\\-clone (1)"),
        ),
        Program(
            store.parser(),
            8,
            {0: "done", 1: "a part did not start or stop, or a scrub found something", 2: wrong},
            ("hatchery\\-store (1)", "hatchery\\-update (8)"),
        ),
        Program(
            update.parser(),
            8,
            {update.OK: "done", update.BAD: "this appliance is not good", update.REFUSED: wrong},
            ("hatchery\\-store (8)",),
        ),
    )


def pages() -> dict[str, str]:
    """Each page's file name and text."""
    return {f"{each.parser.prog}.{each.section}": _page(each) for each in programs()}


def _page(program: Program) -> str:
    parser = program.parser
    about = (parser.description or "").split(": ", 1)[-1].strip()
    lines = [*head(parser.prog, about[:1].upper() + about[1:], program.section), ".SH SYNOPSIS"]
    verbs = dict(_verbs(parser))
    for words, leaf, _ in verbs.values() or [((parser.prog,), parser, "")]:
        lines += [".PP", f"\\fB{escaped(' '.join(words))}\\fR{_usage(leaf)}"]
    options = [".SH OPTIONS", *_options(parser)]
    lines += options if len(options) > 1 else []
    for words, leaf, help_ in verbs.values():
        lines += [f'.SH "{escaped(" ".join(words)).upper()}"', *wrapped(_sentence(help_)), *_options(leaf)]
    lines += [".SH EXIT STATUS"]
    for status, meaning in program.statuses.items():
        lines += [".TP", f".B {status}", escaped(meaning)]
    lines += [".SH SEE ALSO", *(f".BR {each}" for each in program.see)]
    return "\n".join(lines) + "\n"


Verb = tuple[tuple[str, ...], argparse.ArgumentParser, str]
"""The words that lead to it, its own parser, what it does."""


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Verb]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            for name, leaf in action.choices.items():
                yield name, ((parser.prog, name), leaf, helps.get(name, ""))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def _shown(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def _usage(parser: argparse.ArgumentParser) -> str:
    """Options that must be there, then whether there are others, then arguments."""
    actions = list(_shown(parser))
    needed = "".join(f" \\fB{escaped(each.option_strings[0])}\\fR{_value(each)}" for each in actions
                     if each.option_strings and each.required)  # fmt: skip
    others = any(each.option_strings and not each.required for each in actions)
    words = needed + (" [\\fIOPTION\\fR]..." if others else "")
    for each in actions:
        if not each.option_strings:
            name = f"\\fI{escaped(_name(each))}\\fR"
            words += f" [{name}]" if each.nargs == "?" else f" {name}"
    return words


def _name(action: argparse.Action) -> str:
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = f"\\fI{escaped(_name(action))}\\fR"
    return f" [{name}]" if action.nargs == "?" else f" {name}"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in _shown(parser):
        if not action.help:
            continue
        yield ".TP"
        if action.option_strings:
            names = ", ".join(
                f"\\fB{escaped(name)}\\fR" for name in sorted(action.option_strings, key=len, reverse=True)
            )
            yield names + _value(action)
        else:
            yield f"\\fI{escaped(_name(action))}\\fR"
        yield from wrapped(_sentence(action.help))
