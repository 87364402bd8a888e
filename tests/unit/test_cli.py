"""The commands, over the real API on a real unix socket, with the model of the store below."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from appliance import client, schema
from appliance.api.app import make_app
from appliance.bootset.trace import Read
from appliance.cli.main import main
from appliance.errors import AlreadyExists
from appliance.model import Histogram, ImageFormat, TemplateRef
from appliance.wait import until
from tests.unit.service_harness import IMAGE, Box, box

Outcome = tuple[int, str, str]


@dataclass
class Appliance:
    """A served appliance of models, and the command line on it."""

    box: Box
    socket: Path
    read: Callable[[], Any]

    def run(self, *words: str) -> Outcome:
        """One command: its exit status and what it printed."""
        status = main(["--socket", str(self.socket), *words])
        said = self.read()
        return status, said.out, said.err

    def json(self, *words: str) -> Any:
        """One command with ``--json`` after its name, which must succeed."""
        status, out, err = self.run(*words, "--json")
        assert status == 0, err + out
        return json.loads(out)


@pytest.fixture
def appliance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Appliance]:
    with box(tmp_path) as made:
        path = made.paths.api_socket
        server = uvicorn.Server(uvicorn.Config(make_app(made.service), uds=str(path), log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            until(lambda: server.started, "the API", deadline=10)
            yield Appliance(made, path, capsys.readouterr)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(IMAGE)
    return file


def test_a_template_comes_and_goes(appliance: Appliance, image: Path) -> None:
    view = appliance.json("template", "add", "debian-13", str(image))
    assert view["ref"] == "debian-13@1"
    assert view["state"] == "ready"
    assert view["sha256"] == hashlib.sha256(IMAGE).hexdigest()
    status, out, _ = appliance.run("template", "list")
    assert status == 0
    assert "debian-13@1" in out
    assert appliance.json("template", "show", "debian-13") == view
    status, out, _ = appliance.run("template", "remove", "debian-13")
    assert (status, out) == (0, "template debian-13@1 removed\n")
    assert appliance.json("template", "list") == []


def test_clones_of_a_template(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian-13", str(image))
    made = appliance.json("clone", "create", "web", "--template", "debian-13", "--count", "3")
    assert [view["name"] for view in made] == ["web-1", "web-2", "web-3"]
    status, out, _ = appliance.run("clone", "show", "web-2")
    assert status == 0
    assert "Boot it with QEMU:\nqemu-system-x86_64" in out
    assert made[1]["uri"] in out
    status, _, err = appliance.run("template", "remove", "debian-13")
    assert status == 6, "in use"
    assert "web-1" in err
    assert "do:" in err
    status, out, _ = appliance.run("clone", "remove", "web-1", "web-2", "web-3")
    assert (status, out) == (0, "clone web-1 removed\nclone web-2 removed\nclone web-3 removed\n")


def test_a_clones_latencies_are_shown_at_any_time(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian-13", str(image))
    appliance.json("clone", "create", "web", "-t", "debian-13")
    assert "no requests yet" in appliance.run("clone", "show", "web")[1]
    appliance.box.store.latencies[2] = Histogram((0, 0, 30, 69, 0, 1))
    assert appliance.json("clone", "show", "web")["latencies"]["counts"] == [0, 0, 30, 69, 0, 1]
    _, out, _ = appliance.run("clone", "show", "web")
    assert "100 requests, half of them within 16 µs, 99 % within 16 µs" in out
    assert "         4 -> 7          : 30       |*****************                       |\n" in out
    assert appliance.json("clone", "list")[0]["latencies"] is None, "a thousand would take long"
    assert appliance.json("clone", "detach", "web")["latencies"] is None


def test_attach_and_detach(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian-13", str(image))
    appliance.json("client", "add", "lab", "--tcp", "127.0.0.1:10809", "--plain")
    appliance.json("clone", "create", "web", "-t", "debian-13", "--client", "")
    assert appliance.json("clone", "show", "web")["uri"] is None
    assert appliance.json("clone", "attach", "web", "lab")["uri"] == "nbd://127.0.0.1:10809/web"
    status, _, _ = appliance.run("client", "remove", "lab")
    assert status == 6
    assert appliance.json("clone", "detach", "web")["client"] is None
    few = ("client", "add", "lab", "--tcp", "127.0.0.1:10809", "--plain", "--max-connections", "5")
    assert appliance.json(*few)["max_connections"] == 5
    assert "at most:   5 connections" in appliance.run("client", "show", "lab")[1]
    assert appliance.run(*few[:-1], "0")[0] == 2
    assert appliance.json("client", "remove", "lab") == {"name": "lab", "removed": True}


def test_a_client_is_added_by_its_address_alone(appliance: Appliance) -> None:
    status, out, _ = appliance.run("client", "add", "hv1", "--address", "127.0.0.1", "--plain")
    assert (status, "nbd://127.0.0.1:10809/" in out) == (0, True)
    assert appliance.json("client", "add", "hv2", "--address", "127.0.0.1", "--plain")["port"] == 10810
    assert appliance.json("client", "add", "hv2", "--tcp", "127.0.0.1:10900", "--plain")["port"] == 10900
    for words in (("--address", "127.0.0.1", "--tcp", "127.0.0.1:1"), ("--plain",), ("--address", "box")):
        assert appliance.run("client", "add", "hv3", *words)[0] == 3, words
    assert appliance.json("client", "show", "hv1")["transport"] == "tcp"


def test_a_certificate_is_handed_out_once(appliance: Appliance, tmp_path: Path) -> None:
    status, out, _ = appliance.run("client", "add", "lab", "--tcp", "127.0.0.1:10809")
    assert status == 0
    assert "nbds://127.0.0.1:10809/" in out
    assert "Next: hatchery client certificate lab DIRECTORY" in out
    folder = tmp_path / "lab"
    made = appliance.json("client", "certificate", "lab", str(folder), "--days", "30")
    assert 30 * 86400 - 2 < made["expires"] - made["issued"] <= 30 * 86400
    files = {file.name: file.read_text() for file in folder.iterdir()}
    assert files.keys() == {"ca-cert.pem", "client-cert.pem", "client-key.pem"}
    assert {file.stat().st_mode & 0o777 for file in (folder, *folder.iterdir())} == {0o700, 0o600}
    assert "PRIVATE KEY" in files["client-key.pem"]
    view = appliance.json("client", "show", "lab")
    assert [each["serial"] for each in view["certificates"]] == [made["serial"]]
    assert "PRIVATE" not in str(view)
    # Neither is what is there overwritten, nor is another one made of it.
    assert appliance.run("client", "certificate", "lab", str(folder))[0] == 5
    assert appliance.run("client", "certificate", "lab", str(tmp_path / "other"))[0] == 5
    assert {file.name: file.read_text() for file in folder.iterdir()} == files


def test_a_certificate_is_replaced_and_revoked(appliance: Appliance, tmp_path: Path) -> None:
    appliance.json("client", "add", "lab", "--tcp", "127.0.0.1:10809")
    folder = tmp_path / "lab"
    first = appliance.json("client", "certificate", "lab", str(folder))["serial"]
    second = appliance.json("client", "rotate", "lab", str(folder))["serial"]
    assert len(list(folder.iterdir())) == 3
    status, out, _ = appliance.run("client", "revoke", "lab", "--older")
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("certificate ")]
    for line, (serial, state) in zip(lines, ((second, "good until"), (first, "revoked")), strict=True):
        assert line.startswith(f"certificate {serial}: issued ")
        assert state in line
    assert appliance.run("client", "revoke", "lab", "--older", "--serial", second)[0] == 3
    assert appliance.run("client", "revoke", "lab", "--serial", "00")[0] == 4
    assert "no certificate lets anybody in" in appliance.run("client", "revoke", "lab")[1]
    assert appliance.run("client", "rotate", "local", str(folder))[0] == 7


def test_a_certificate_goes_to_a_pipe_as_an_archive(appliance: Appliance) -> None:
    appliance.json("client", "add", "lab", "--tcp", "127.0.0.1:10809")
    status, out, _ = appliance.run("client", "certificate", "lab", "-")
    assert status == 0
    with tarfile.open(fileobj=io.BytesIO(out.encode())) as archive:
        assert {entry.name: entry.mode for entry in archive} == {
            "ca-cert.pem": 0o600,
            "client-cert.pem": 0o600,
            "client-key.pem": 0o600,
        }


def test_a_folder_that_cannot_be_used_costs_no_certificate(appliance: Appliance, image: Path) -> None:
    appliance.json("client", "add", "lab", "--tcp", "127.0.0.1:10809")
    assert appliance.run("client", "certificate", "lab", str(image))[0] == 7
    assert appliance.json("client", "show", "lab")["certificates"] == []


def test_a_name_that_is_there_gets_a_new_version(appliance: Appliance, image: Path) -> None:
    assert appliance.json("template", "add", "debian-13", str(image))["ref"] == "debian-13@1"
    assert appliance.json("template", "add", "debian-13", str(image))["ref"] == "debian-13@2"
    assert appliance.json("template", "show", "debian-13")["ref"] == "debian-13@2"
    assert appliance.json("template", "show", "debian-13@1")["version"] == 1


def test_a_wrong_checksum_leaves_nothing(appliance: Appliance, image: Path) -> None:
    status, _, err = appliance.run("template", "add", "debian-13", str(image), "--sha256", "0" * 64)
    assert status == 3
    assert hashlib.sha256(IMAGE).hexdigest() in err
    assert appliance.json("template", "list") == []


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (("backup",), ["backup"]),
        (("backup", "--to", "/srv"), ["backup", "--to", "/srv"]),
        (("restore", "/srv/x.tar", "--yes"), ["restore", "/srv/x.tar", "--yes"]),
        (("repair", "--from-dump"), ["repair", "--from-dump"]),
    ],
)
def test_verbs_for_bad_days_are_asked_for_json(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], argv: list[str]
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("appliance.run.Runner.become", lambda _, line: became.append(list(line)))
    appliance.run("store", *words)
    appliance.run("store", *words, "--json")
    appliance.run("--json", "store", *words)
    assert became == [["hatchery-store", *argv], *[["hatchery-store", *argv, "--json"]] * 2]


def test_a_recorded_boot_comes_as_a_trace(appliance: Appliance, image: Path, tmp_path: Path) -> None:
    appliance.json("template", "add", "debian-13", str(image))
    status, _, err = appliance.run("template", "boot-set", "trace", "debian-13")
    assert (status, "no recorded boot 1" in err) == (4, True)
    template = appliance.box.service.core.catalog.template(TemplateRef("debian-13"))
    appliance.box.service.boot_sets.add_run(template, "web", [Read(0, 4096, 0), Read(8192, 512, 70)])
    file = tmp_path / "web.trace"
    assert appliance.run("template", "boot-set", "trace", "debian-13", str(file))[0] == 0
    assert file.read_text().splitlines()[1:] == ["0 4096 0", "8192 512 70"]
    assert appliance.run("template", "boot-set", "trace", "debian-13@1", "--boot", "1")[1] == file.read_text()
    status, _, err = appliance.run("template", "boot-set", "trace", "debian-13", str(file))
    assert (status, "exists" in err) == (5, True)


def test_status_shows_every_part(appliance: Appliance) -> None:
    status, out, _ = appliance.run("status")
    assert status == 0
    for word in ("backend", "meta", "cache", "pool", "local"):
        assert word in out


def test_the_typed_client(appliance: Appliance) -> None:
    with client.connect(socket=appliance.socket) as connection:
        assert connection.templates() == ()
        wanted = schema.TemplateCreate(name="t", format=ImageFormat.RAW, source=schema.UploadSource(), size=len(IMAGE))
        job = connection.import_template(wanted)
        with pytest.raises(AlreadyExists):
            connection.import_template(wanted)
        told: list[str] = []
        connection.upload("t", len(IMAGE), [IMAGE], job)
        done = connection.finish(job, deadline=20, progress=lambda state: told.append(state.state))
        assert done.subject == "t@1"
        assert told[-1] == "succeeded"


def test_status_tells_how_long_the_disks_take(appliance: Appliance) -> None:
    assert "HALF WITHIN" not in appliance.run("status")[1]
    appliance.box.store.disk_counts = {"ubdb": Histogram((0,) * 13 + (99, 1))}
    out = appliance.run("status")[1]
    [row] = [line.split() for line in out.splitlines() if line.strip().startswith("ubdb")]
    assert row == ["ubdb", "backend", "100", "16.4", "ms", "16.4", "ms"]


def test_boots_are_asked_for_and_shown(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian", str(image))
    assert "3 more boot(s) wanted, listening to 0 clone(s)" in appliance.run("template", "show", "debian")[1]
    assert "debian@1: 2 boot(s) of its clones will be recorded" in appliance.run(
        "template", "learn", "debian", "--runs", "2"
    )[1].replace("\n", " ")
    appliance.json("clone", "create", "web", "--template", "debian", "--client", "local")
    learning = appliance.json("template", "show", "debian")["learning"]
    assert learning == {"missing": 2, "listening": 1, "recording": [], "cannot": ""}
    assert appliance.run("template", "learn", "debian", "--runs", "99")[0] != 0
    assert appliance.run("template", "learn", "missing")[0] == 4
