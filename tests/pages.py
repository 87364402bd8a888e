"""The commands that the documentation shows, and who runs each of them.

A line with a prompt in a ``console`` block is a command. Tests take its text from the page and run it, in the page's
order and with the page's names, which are set up before (``Story.before``) or, where that cannot be, changed in plain
sight (``Story.changes``). ``WHO`` says which test that is: the first entry that fits a command counts, so that a new
command of ``hatchery`` is run in the lab without a word here. tests/lint/test_pages.py fails for a command that no
entry fits, and for an entry that no command needs.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"[$#] (.*)")
_HERE_DOCUMENT = re.compile(r"<<'(\w+)'")


class Place(Enum):
    """Where commands are run: the test's file, and what it is to them."""

    LAB = "tests/kernel/test_pages.py", "the lab is the appliance, and the host of its clients"
    OPERATOR = "tests/appliance/test_pages.py", "this machine is the operator's, who has a checkout and an appliance"
    BOX = "tests/appliance/test_pages.py", "the appliance, as root"
    BUILDER = "tests/appliance/test_pages.py", "this machine, which builds images"
    MEASURED = "tests/appliance/test_pages.py", "this machine boots guests of the appliance"
    NEWCOMER = "tests/appliance/test_readme.py", "this machine, where a demo was left running"
    REMOVED = "tests/appliance/test_removal.py", "this machine is the operator's; the appliance is one that may go"
    RESET = "tests/appliance/test_reset.py", "the appliance, which begins anew"
    TRIED = "tests/appliance/test_test_boot.py", "this machine, which boots the image once"

    @property
    def file(self) -> Path:
        """The test that runs them."""
        return ROOT / self.value[0]


PLAYBOOK = "*ansible-playbook -i ansible/inventories/mine "
BUNDLE = "a second version of the image, and a restart into it: tests/appliance/test_update_story.py, in other words"
LIBVIRT = "two hosts with libvirt: tests/appliance/test_live_migration.py migrates by QEMU alone, and the page says so"
DEMO = "half an hour: run by hand, docs/results.md is its record; what --keep leaves is used by test_readme.py"

WHO: tuple[tuple[str, str, Place | str], ...] = (
    ("README.md", "hatchery template add mine *", Place.NEWCOMER),
    ("README.md", "hatchery clone create web --template mine *", Place.NEWCOMER),
    ("README.md", "build/demo/boot *", Place.NEWCOMER),
    ("README.md", ". build/demo/use", Place.NEWCOMER),
    ("README.md", "hatchery measure *", Place.MEASURED),
    ("*", "export HATCHERY_HOST=*", Place.OPERATOR),
    ("docs/deployment.md", "hatchery status", Place.OPERATOR),
    ("docs/reliability.md", "hatchery --host *", Place.OPERATOR),
    # User-Mode Linux has no NVMe target.
    ("*", "hatchery client nvme *", Place.OPERATOR),
    ("*", "hatchery client certificate hv1 hv1-nvme --nvme*", Place.OPERATOR),
    ("*", "hatchery clone attach web --client hv1 --protocol nvme-tcp", Place.OPERATOR),
    ("*", "hatchery *", Place.LAB),
    ("docs/attach.md", "modprobe nbd", Place.LAB),
    ("docs/attach.md", "hatchery-attach *", Place.LAB),
    ("docs/attach.md", "qemu-storage-daemon *", Place.LAB),
    ("docs/attach.md", "mkdir *", Place.BOX),
    ("docs/attach.md", "echo *", Place.BOX),
    ("docs/attach.md", "systemctl enable --now hatchery-attach@web", Place.BOX),
    (
        "docs/attach.md",
        "systemctl enable --now hatchery-nvme-connect@web",
        "a host that the role made ready: tests/appliance/test_nvme_roles.py, where the role enables it",
    ),
    ("docs/day-two.md", "systemctl restart hatcheryd", Place.BOX),
    ("docs/day-two.md", "printf *FactoryReset-*", Place.RESET),
    ("docs/day-two.md", "ssh-keygen -R BOX", "VM.forget (bench/vm.py) does it, for keys of its own"),
    ("docs/day-two.md", "systemctl reboot", "VM.reboot (bench/vm.py) says it, in many tests of the appliance"),
    ("docs/install.md", "systemctl edit *", Place.BOX),
    ("docs/install.md", "systemctl restart hatchery-status.socket", Place.BOX),
    ("*", "journalctl *", Place.BOX),
    ("docs/api.md", "ssh *", Place.OPERATOR),
    ("docs/api.md", "curl *", Place.OPERATOR),
    ("*", "ssh root@hv1 mkdir *", Place.OPERATOR),
    ("*", "scp *", Place.OPERATOR),
    ("*", "cp -r ansible/inventories/*", Place.OPERATOR),
    ("*", "editor ansible/inventories/*", Place.OPERATOR),
    ("*", f"{PLAYBOOK}ansible/deploy.yml*", Place.OPERATOR),
    ("*", f"{PLAYBOOK}ansible/templates.yml*", Place.OPERATOR),
    ("docs/update.md", f"{PLAYBOOK}ansible/update.yml *--check --diff", Place.OPERATOR),
    ("docs/update.md", f"{PLAYBOOK}ansible/update.yml *", BUNDLE),
    ("docs/update.md", "script/image bundle *", BUNDLE),
    ("docs/update.md", "hatchery-update check *", f"a server's certificate by a public authority; {BUNDLE}"),
    ("docs/update.md", "hatchery-update apply *", BUNDLE),
    ("docs/deployment.md", f"{PLAYBOOK}--limit box ansible/remove.yml*", Place.REMOVED),
    ("ansible/README.md", "ansible-galaxy *", Place.OPERATOR),
    ("ansible/README.md", "ansible-playbook -i INVENTORY *", Place.OPERATOR),
    ("docs/deployment.md", "git clone *", Place.BUILDER),
    ("*", "script/bootstrap", "script/test begins with it: there is no test without it"),
    ("README.md", "script/test", "it is what runs the tests"),
    ("README.md", "script/demo*", DEMO),
    ("docs/deployment.md", "script/image --test-boot", Place.TRIED),
    ("*", "script/image *", Place.BUILDER),
    ("docs/security.md", "virsh *", LIBVIRT),
)
"""Page, command, and who runs it; or, in words, why no test runs what the page shows."""


@dataclass(frozen=True)
class Command:
    """A command of a page, and what the page shows that it prints. ``block``: the how manieth ``console`` block."""

    page: str
    line: int
    block: int
    text: str
    shown: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The pages for users."""
    docs, roles = sorted((ROOT / "docs").glob("*.md")), sorted((ROOT / "roles").glob("*/README.md"))
    return [ROOT / "README.md", *docs, ROOT / "ansible/README.md", *roles]


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page. A line that ends with a backslash goes on; so does one with a here-document."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
    for number, block in enumerate(_BLOCK.finditer(text)):
        first = text.count("\n", 0, block.start(2)) + 1
        lines = textwrap.dedent(block[2]).splitlines()
        at = 0
        while at < len(lines):
            begin, prompt = at, _PROMPT.fullmatch(lines[at])
            at += 1
            if prompt is None:  # what is printed before the first command is nobody's
                continue
            said = [prompt[1]]
            if document := _HERE_DOCUMENT.search(prompt[1]):
                end = lines.index(document[1], at)
                said += lines[at : end + 1]
                at = end + 1
            while said[-1].endswith("\\") and not document:
                said.append(lines[at])
                at += 1
            shown = []
            while at < len(lines) and not _PROMPT.fullmatch(lines[at]):
                shown.append(lines[at])
                at += 1
            yield Command(name, first + begin, number, "\n".join(said), tuple(shown))


def every_command() -> Iterator[Command]:
    """All commands of all pages, in their order."""
    for page in pages():
        yield from commands(page)


def entry(command: Command) -> int | None:
    """The number of the entry in ``WHO`` that says who runs a command; None: none does."""
    for number, (page, text, _) in enumerate(WHO):
        if fnmatchcase(command.page, page) and fnmatchcase(bare(command.text), text):
            return number
    return None


def bare(text: str) -> str:
    """A command without a remark behind it."""
    return re.sub(r"\s+# .*", "", text)


def of(place: Place) -> list[Command]:
    """The commands that are run in a place, in the pages' order."""
    found = []
    for command in every_command():
        number = entry(command)
        if number is not None and WHO[number][2] is place:
            found.append(command)
    return found


@dataclass
class Story:
    """Commands as they are run: page by page, each page in one shell, until something fails.

    ``before``: by page and the beginning of a command, what the shell does before it. ``changes``: what is replaced in
    commands, and in what pages show of their output. ``once``: a command that another page has had is left out.
    """

    place: Place
    before: Mapping[tuple[str, str], str] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)
    once: bool = False
    _used: set[object] = field(default_factory=set)

    def pages(self) -> dict[str, list[Command]]:
        """The commands by page."""
        left, seen = [], set()
        for command in of(self.place):
            if not self.once or bare(command.text) not in seen:
                left.append(command)
            seen.add(bare(command.text))
        return {page: list(found) for page, found in groupby(left, lambda command: command.page)}

    def changed(self, text: str) -> str:
        """A text with what is replaced in it."""
        for old, new in self.changes.items():
            if old in text:
                self._used.add(old)
                text = text.replace(old, new)
        return text

    def script(self, page: str) -> str:
        """The page as a script for bash. It names each command before it on both of its streams."""
        lines = ["set -eu -o pipefail"]
        for command in self.pages()[page]:
            mark, setting = f"echo '## {command.where}'", self.setting(command)
            # What that prints is nobody's output.
            lines += [f"{{ {setting}; }} >&2" if setting else "", mark, f"{mark} >&2", self.changed(command.text)]
        return "\n".join(line for line in lines if line) + "\n"

    def setting(self, command: Command) -> str:
        """What is done before a command."""
        for (page, begin), setting in self.before.items():
            if page == command.page and command.text.startswith(begin):
                self._used.add((page, begin))
                return setting
        return ""

    def idle(self) -> list[object]:
        """What is set up or replaced for no command."""
        return [each for each in (*self.before, *self.changes) if each not in self._used]


def printed(output: str) -> dict[str, str]:
    """What each command of a script printed, by its page and line."""
    _, *parts = re.split(r"^## (\S+:\d+)\n", output, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))
