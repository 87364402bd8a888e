"""What the commands say when something is wrong, and what the shell is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import client, schema
from appliance.cli.main import main
from appliance.errors import BadImage, CommandFailed, HatcheryError, NotFound
from appliance.model import ImageFormat
from tests.unit.service_harness import IMAGE
from tests.unit.test_cli import Appliance, appliance

__all__ = ["appliance"]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (3, "invalid-input", ["clone", "create", "Bad_Name_", "--template", "t"]),
        (3, "invalid-input", ["template", "add", "t", "/nonexistent.raw"]),
        (3, "invalid-input", ["template", "add", "t", "image.vmdk"]),
        (3, "invalid-input", ["template", "show", "t@0"]),
        (3, "invalid-input", ["client", "add", "lab", "--tcp", "10809"]),
        (4, "not-found", ["clone", "create", "web", "--template", "missing"]),
        (4, "not-found", ["clone", "show", "missing"]),
        (4, "not-found", ["template", "show", "missing@2"]),
    ],
)
def test_errors_say_what_why_and_what_to_do(appliance: Appliance, status: int, code: str, words: list[str]) -> None:
    assert appliance.run(*words)[0] == status
    found, out, err = appliance.run("--json", *words)
    assert found == status
    error = json.loads(out)["error"]
    assert error["code"] == code
    assert error["what"]
    assert error["why"] or error["hint"]
    assert err == ""


def test_a_missing_name_is_an_error_for_a_person_and_an_answer_for_a_program(appliance: Appliance) -> None:
    status, _, err = appliance.run("clone", "remove", "gone")
    assert status == 4
    assert "there is no clone gone" in err
    assert appliance.json("clone", "remove", "gone") == {"name": "gone", "removed": False}


def test_a_wrong_command_line_is_status_2(appliance: Appliance) -> None:
    assert appliance.run("clone", "create", "web")[0] == 2
    assert appliance.run("nonsense")[0] == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("clone", "create", "web"), "'--template'"),
        (("nonsense",), "nonsense"),
        (("clone", "list", "--colour"), "--colour"),
        (("clone", "create", "web", "-t", "debian", "--count", "many"), "--count"),
        (("template", "show"), "'NAME[@VERSION]'"),
    ],
)
def test_a_wrong_command_line_is_an_error_for_programs_too(
    appliance: Appliance, words: tuple[str, ...], why: str
) -> None:
    for line in (("--json", *words), (*words, "--json")):
        status, out, err = appliance.run(*line)
        error = json.loads(out)["error"]
        assert (status, error["code"], err) == (2, "wrong-command-line", "")
        assert why in error["why"]
        assert "--help" in error["hint"]


def test_a_group_alone_is_answered_by_its_help(appliance: Appliance) -> None:
    status, out, err = appliance.run("--json", "clone")
    assert (status, "Usage" in out + err, "wrong" in out) == (2, True, False)


def test_what_is_asked_for_is_no_error_with_json(appliance: Appliance) -> None:
    assert appliance.run("--json", "--version")[0] == 0
    assert "Usage" in appliance.run("--json", "clone", "list", "--help")[1]


def test_measurements_say_errors_in_json_as_everything_does(appliance: Appliance, tmp_path: Path) -> None:
    words = ["measure", "boot", "--template", "missing"]
    status, out, err = appliance.run(*words, "--json-file", str(tmp_path / "results.json"))
    assert (status, out) == (4, "")
    assert "missing" in err
    for name in ("boot", "storm"):
        status, out, err = appliance.run("measure", name, "--template", "missing", "--json")
        assert (status, json.loads(out)["error"]["code"]) == (4, "not-found")


# httpcore leaves a unix socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_service_is_not_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(tmp_path / "none.sock"), "status"]) == 9
    assert "hatcheryd" in capsys.readouterr().err


def test_an_error_comes_back_as_the_class_it_was_raised_as() -> None:
    assert type(client.error_named("not-found", "x")) is NotFound
    found = client.error_named("bad-image", "what", "why", "do")
    assert type(found) is BadImage
    assert (found.what, found.why, found.hint) == ("what", "why", "do")
    assert type(client.error_named("from-the-future", "x")) is HatcheryError
    assert type(client.error_named("command-failed", "x", "y")) is CommandFailed


def test_an_upload_that_breaks_off_is_told_and_leaves_nothing(appliance: Appliance) -> None:
    def broken() -> Iterator[bytes]:
        yield IMAGE[:1000]
        raise ConnectionResetError

    with client.connect(socket=appliance.socket) as connection:
        job = connection.import_template(
            schema.TemplateCreate(name="t", format=ImageFormat.RAW, source=schema.UploadSource(), size=len(IMAGE))
        )
        with pytest.raises(ConnectionResetError):
            connection.upload("t", len(IMAGE), broken(), job)
    with client.connect(socket=appliance.socket) as connection:
        with pytest.raises(BadImage):
            connection.finish(job, deadline=20)
        assert connection.templates() == ()


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the shell is offered after ``words``, as bash asks."""
    monkeypatch.setenv("_HATCHERY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert main([]) == 0
    return capsys.readouterr().out.split()


def test_the_shell_completes_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed("hatchery cl", monkeypatch, capsys) == ["clone", "client"]
    assert "reset" in completed("hatchery clone re", monkeypatch, capsys)
    assert completed("hatchery clone create --temp", monkeypatch, capsys) == ["--template"]


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_completion_without_a_shell_says_so(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object, **__: object) -> tuple[str, str]:
        raise OSError("no shell")

    monkeypatch.setattr("typer.core.TyperGroup.main", none)
    assert main([option]) == 9
    assert "do:  start it from bash" in capsys.readouterr().err
    with pytest.raises(OSError, match="no shell"):
        main(["status"])
