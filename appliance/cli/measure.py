"""``hatchery measure``: boots of real guests, one by one or at once, or recorded ones. Runs where the guests run."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance import progress
from appliance.bootset.trace import parse_trace
from appliance.cli.options import JsonOption, Session, session
from appliance.cli.output import err, print_json
from appliance.errors import InvalidInput
from appliance.measure.credentials import FOLDER
from appliance.measure.prepare import Begin
from appliance.measure.reach import Access
from appliance.model import TemplateRef, check_name
from appliance.run import Runner

if TYPE_CHECKING:
    from appliance.measure.together import Together

app = typer.Typer(no_args_is_help=True, help="Measurements.")


HistoryOption = Annotated[
    Path | None,
    typer.Option(
        "--history",
        metavar="FOLDER",
        help="Where measurements are kept (default: ~/.local/state/hatchery/measurements).",
    ),
]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json-file", metavar="FILE", help="Write the results here as JSON.")
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write the results here as a page with plots.")
]
TextOption = Annotated[Path | None, typer.Option("--text", metavar="FILE", help="The same as text.")]


ClientOption = Annotated[
    str | None,
    typer.Option("--client", help="Attach the clones to this client; default: the one over TCP, or 'local'."),
]
NbdOption = Annotated[
    str | None,
    typer.Option(
        "--nbd", metavar="HOST:PORT", help="Where the client's port is found from here, if not where it listens."
    ),
]
CertificatesOption = Annotated[
    Path,
    typer.Option("--certificates", metavar="FOLDER", help="This machine's certificate, where the client takes TLS."),
]


@app.callback()
def measure() -> None:
    """Measurements."""


@app.command("boot")
def boot(
    context: typer.Context,
    template: Annotated[str, typer.Option("--template", "-t", metavar="NAME[@VERSION]", help="Boot clones of it.")],
    runs: Annotated[int, typer.Option(min=1, max=100, help="How often to boot all of these.")] = 3,
    clones: Annotated[
        int, typer.Option(min=1, max=100, help="Fresh clones a run: the first boots cold, the others warm.")
    ] = 2,
    prefetched: Annotated[
        bool, typer.Option("--prefetched/--no-prefetched", help="One more a run, after its boot set was fetched.")
    ] = True,
    json_file: JsonFileOption = None,
    html_file: HtmlOption = None,
    text_file: TextOption = None,
    client: ClientOption = None,
    nbd: NbdOption = None,
    certificates: CertificatesOption = FOLDER,
    name: Annotated[str, typer.Option(help="What the clones' names begin with.")] = "measure",
    memory: Annotated[int, typer.Option(min=128, metavar="MIB", help="The guest's memory.")] = 1024,
    cpus: Annotated[int, typer.Option(min=1, help="The guest's processors.")] = 2,
    deadline: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="A boot may take this long.")] = 300,
    keep_clones: Annotated[bool, typer.Option("--keep-clones", help="Leave the clones afterwards.")] = False,
    history_folder: HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Boot fresh clones, cold, prefetched and warm, and print what it cost: seconds, requests, hits, latencies."""
    # QEMU and plots concern this command alone; the others start faster without.
    from appliance.measure import guest, report, told
    from appliance.measure import session as boots

    run = session(context, as_json)
    TemplateRef.parse(template)
    check_name(name, "clone name")
    files = _Files(json_file, html_file, text_file, history_folder)
    files.check()
    plan = boots.Plan(
        template=template,
        runs=runs,
        clones=clones,
        prefetched=prefetched,
        name=name,
        access=Access(client, nbd, certificates),
        hardware=guest.Hardware(memory_mib=memory, cpus=cpus),
        deadline=deadline,
        keep_clones=keep_clones,
    )
    with run.connect() as connection, _bar(run) as bar:
        measuring = boots.Session(connection, plan, host=run.host, runner=Runner(), tell=_say, bar=bar)
        result = measuring.run()
        told.tell(connection, result, _say)
    files.give(run, report.to_json(result), report.text(result), lambda: report.page(result))


def _bar(run: Session) -> AbstractContextManager[progress.Bar]:
    """Drawn once a second: guests and replays may need the processor."""
    return progress.bar("preparing", show=not run.as_json, often=1.0)


def _say(words: str) -> None:
    """A line of what happens, above the bar."""
    typer.echo(words, err=True)


@dataclass(frozen=True, slots=True)
class _Files:
    """Where the results go, besides the standard output; ``history`` is a folder."""

    json: Path | None
    html: Path | None
    text: Path | None
    history: Path | None

    def check(self) -> None:
        """See before hours of measuring that the results can be written."""
        if self.html is not None:
            from appliance.measure import plots

            plots.require()
        for file in (self.json, self.html, self.text):
            if file is not None and not file.absolute().parent.is_dir():
                raise InvalidInput(
                    f"{file} cannot be written",
                    why=f"{file.absolute().parent} is not a folder",
                    hint="name a file in a folder that you may write to",
                )

    def give(self, run: Session, document: str, text: str, page: Callable[[], str]) -> None:
        """Keep the results, which are JSON, text and a page, and show them."""
        from appliance.measure import history

        kept = history.keep(document, self.history or history.folder())
        err().print(f"kept in {kept}; `hatchery measure compare` shows how it differs from the last", highlight=False)
        if self.json is not None:
            self.json.write_text(document, encoding="utf-8")
        if self.html is not None:
            self.html.write_text(page(), encoding="utf-8")
        if self.text is not None:
            self.text.write_text(text, encoding="utf-8")
        typer.echo(document if run.as_json else text, nl=False)


def _give(run: Session, files: _Files, found: "Together") -> None:
    """What many clones did at once."""
    from appliance.measure import together

    document = json.dumps(found.as_json(), indent=2) + "\n"
    files.give(run, document, found.text(), lambda: together.page(found))


@app.command("storm")
def storm(
    context: typer.Context,
    template: Annotated[str, typer.Option("--template", "-t", metavar="NAME[@VERSION]", help="Boot clones of it.")],
    clones: Annotated[int, typer.Option(min=1, max=100, help="So many fresh clones at once.")] = 10,
    cache: Annotated[Begin, typer.Option(help="What the cache holds at the beginning.")] = Begin.AS_IT_IS,
    client: ClientOption = None,
    nbd: NbdOption = None,
    certificates: CertificatesOption = FOLDER,
    name: Annotated[str, typer.Option(help="What the clones' names begin with.")] = "storm",
    memory: Annotated[int, typer.Option(min=128, metavar="MIB", help="Each guest's memory.")] = 1024,
    cpus: Annotated[int, typer.Option(min=1, help="Each guest's processors.")] = 2,
    deadline: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Each boot may take this long.")] = 900,
    json_file: JsonFileOption = None,
    html_file: HtmlOption = None,
    text_file: TextOption = None,
    history_folder: HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Boot fresh clones at once, in real guests: first, median and last login, and what the backend had to read."""
    from appliance.measure import guest, storm

    run = session(context, as_json)
    TemplateRef.parse(template)
    check_name(name, "clone name")
    files = _Files(json_file, html_file, text_file, history_folder)
    files.check()
    hardware = guest.Hardware(memory_mib=memory, cpus=cpus)
    plan = storm.Plan(template, clones, cache, name, Access(client, nbd, certificates), hardware, deadline)
    with run.connect() as connection, _bar(run) as bar:
        done = storm.run(connection, plan, host=run.host, runner=Runner(), tell=_say, bar=bar)
    _give(run, files, done)


@app.command("compare")
def compare(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BEFORE [AFTER]]", help="Files or kept ones; default: the last two.")
    ] = None,
    html_file: HtmlOption = None,
    history_folder: HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two measurements of one kind: boots, storms of as many clones, or replays of one trace."""
    from appliance.measure import comparison, history

    run = session(context, as_json)
    if len(names or ()) > 2:
        raise InvalidInput(
            "two measurements are compared, not more",
            why=f"{len(names or ())} were named",
            hint="name none for the last two, or two files",
        )
    _Files(None, html_file, None, history_folder).check()
    before, after = (history.load(path) for path in history.choose(history_folder or history.folder(), *(names or ())))
    if html_file is not None:
        html_file.write_text(comparison.page(before, after), encoding="utf-8")
    if run.as_json:
        print_json(
            {"differences": [{**asdict(each), "change": each.change} for each in history.compare(before, after)]}
        )
    else:
        typer.echo(history.text(before, after), nl=False)


@app.command("replay")
def replay(
    context: typer.Context,
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A recorded boot: OFFSET LENGTH in each line, bytes.")],
    template: Annotated[str, typer.Option("--template", "-t", metavar="NAME[@VERSION]", help="By clones of it.")],
    clones: Annotated[int, typer.Option(min=1, max=1000, help="So many fresh clones at once.")] = 1,
    cache: Annotated[Begin, typer.Option(help="What the cache holds at the beginning.")] = Begin.AS_IT_IS,
    client: ClientOption = None,
    nbd: NbdOption = None,
    certificates: CertificatesOption = FOLDER,
    name: Annotated[str, typer.Option(help="What the clones' names begin with.")] = "replay",
    json_file: JsonFileOption = None,
    html_file: HtmlOption = None,
    text_file: TextOption = None,
    history_folder: HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay a recorded boot over NBD, without a guest: the time that storage takes alone."""
    from appliance.measure import replaying

    run = session(context, as_json)
    TemplateRef.parse(template)
    check_name(name, "clone name")
    try:
        reads = parse_trace(trace.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{trace} cannot be read", why=str(error), hint="is its path right, and may you read it?"
        ) from error
    files = _Files(json_file, html_file, text_file, history_folder)
    files.check()
    plan = replaying.Plan(template, clones, cache, name, trace.name, Access(client, nbd, certificates))
    with run.connect() as connection, _bar(run) as bar:
        done = replaying.run(connection, plan, reads, host=run.host, runner=Runner(), tell=_say, bar=bar)
    _give(run, files, done)
