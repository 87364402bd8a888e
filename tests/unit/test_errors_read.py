"""What somebody reads when it goes wrong: each class of errors, provoked, names the cause and a step that fits."""

import importlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from appliance.cli.main import EXIT_STATUS
from appliance.images.sources import Source
from appliance.run import Runner
from appliance.service.service import Service
from appliance.wait import until
from tests.https_server import serve
from tests.unit.qcow2_files import Image
from tests.unit.test_cli import Appliance, appliance
from tests.unit.test_errors import all_errors
from tests.unit.test_image_unpacking import Endless

__all__ = ["appliance"]

SLOW = "http://192.0.2.1/disk.raw"


@dataclass
class Place:
    """Where it goes wrong."""

    appliance: Appliance
    folder: Path
    patch: pytest.MonkeyPatch

    @property
    def service(self) -> Service:
        return self.appliance.box.service

    def run(self, *words: str) -> tuple[int, str]:
        """A command: its exit status and what it printed on its standard output."""
        status, out, _ = self.appliance.run("--json", *words)
        return status, out

    def file(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return str(self.folder / name)

    def with_clone(self) -> None:
        """There is a template, with a clone."""
        assert self.appliance.box.add_template("debian").state == "succeeded"
        self.appliance.json("clone", "create", "web", "--template", "debian")

    def endless(self) -> None:
        """URLs give more and more."""

        def opened(_: str) -> Source:
            return Endless()

        self.patch.setattr(self.service.imports, "_open_url", opened)


Said = tuple[int, str]
Provoke = Callable[[Place], Said]


def a_bug_in_a_request(at: Place) -> Said:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    at.patch.setattr(at.service, "list_clones", broken)
    return at.run("clone", "list")


def a_bug_in_a_job(at: Place) -> Said:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    at.patch.setattr(at.service.imports, "_take_raw", broken)
    at.patch.setattr(threading, "excepthook", lambda _: None)
    return at.run("template", "add", "far", at.file("disk.raw", bytes(4096)))


def a_format_that_is_not_stated(at: Place) -> Said:
    return at.run("template", "add", "far", at.file("disk.vmdk", b"x"))


def a_url_that_is_none(at: Place) -> Said:
    return at.run("template", "add", "far", "http://host:port/disk.raw")


def a_relative_path(at: Place) -> Said:
    return at.run("template", "add", "far", "disk.raw", "--path")


def an_image_with_a_backing_file(at: Place) -> Said:
    return at.run("template", "add", "far", at.file("disk.qcow2", Image(backing_offset=512).build()))


def an_image_that_is_no_qcow2(at: Place) -> Said:
    return at.run("template", "add", "far", at.file("disk.qcow2", bytes(4096)))


def a_wrong_checksum(at: Place) -> Said:
    return at.run("template", "add", "far", at.file("disk.raw", bytes(4096)), "--sha256", "0" * 64)


def a_clone_that_is_not_there(at: Place) -> Said:
    return at.run("clone", "show", "none")


def an_operation_that_is_not_there(at: Place) -> Said:
    return at.run("operation", "show", "none")


def a_path_that_is_not_there(at: Place) -> Said:
    return at.run("template", "add", "far", "/none/disk.raw", "--path")


def a_url_that_is_not_there(at: Place) -> Said:
    with serve(at.folder, {}, encrypted=False) as site:
        return at.run("template", "add", "far", f"{site.url}disk.raw")


def a_url_that_wants_a_login(at: Place) -> Said:
    with serve(at.folder, {"disk.raw": b""}, encrypted=False) as site:
        site.forbidden = True
        return at.run("template", "add", "far", f"{site.url}disk.raw")


def a_name_that_is_taken(at: Place) -> Said:
    at.with_clone()
    return at.run("clone", "create", "web", "--template", "debian")


def a_template_that_has_clones(at: Place) -> Said:
    at.with_clone()
    return at.run("template", "remove", "debian", "--yes")


def a_client_that_must_stay(at: Place) -> Said:
    return at.run("client", "remove", "local")


def an_image_that_does_not_fit(at: Place) -> Said:
    at.appliance.box.pool.data_total = 1 << 20
    return at.run("template", "add", "far", at.file("disk.raw", bytes(4 << 20)))


def no_service(at: Place) -> Said:
    status, out, _ = Appliance(at.appliance.box, at.folder / "none", at.appliance.read).run("--json", "clone", "list")
    return status, out


def a_server_that_is_down(at: Place) -> Said:
    with serve(at.folder, {}, encrypted=False) as site:
        url = f"{site.url}disk.raw"
    return at.run("template", "add", "far", url)


def a_program_that_is_missing(at: Place) -> Said:
    at.patch.setenv("PATH", "/nowhere")
    return at.run("--host", "root@box", "clone", "list")


def a_storage_daemon_that_refuses(at: Place) -> Said:
    at.with_clone()
    at.appliance.box.units.daemons["local"].refuse["blockdev-reopen"] = "the group is broken"
    return at.run("clone", "limit", "web", "--iops", "500")


@contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[None]:
    """Somebody on a socket who answers everybody with that, or nobody at all."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if answer is None:
                        connection.recv(1)  # until the client hangs up
                    else:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def asked(at: Place, answer: bytes | None) -> Said:
    path = at.folder / "api"
    with answering(path, answer):
        status, out, _ = Appliance(at.appliance.box, path, at.appliance.read).run("--json", "clone", "list")
    return status, out


def an_answer_of_another_release(at: Place) -> Said:
    return asked(at, b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n" + b'{"clones": 17}')


def an_answer_of_something_else(at: Place) -> Said:
    return asked(at, b"HTTP/1.1 418 No\r\nContent-Length: 8\r\nConnection: close\r\n\r\na teapot")


def no_answer(at: Place) -> Said:
    # By its name, for the package has a function of the same one.
    at.patch.setattr(importlib.import_module("appliance.client.connect"), "TIMEOUT", httpx.Timeout(0.2))
    return asked(at, None)


def a_job_that_takes_too_long(at: Place) -> Said:
    at.endless()
    at.patch.setattr("appliance.cli.template.IMPORT_DEADLINE", 0.0)
    return at.run("template", "add", "far", f"{SLOW}.gz", "--format", "raw")


def a_job_that_is_cancelled(at: Place) -> Said:
    at.endless()

    def cancel() -> None:
        def found() -> bool:
            return any(each.cancellable for each in at.service.operations.list())

        until(found, "the import", deadline=10)
        at.service.operations.job(at.service.operations.list()[0].id).cancel()

    somebody = threading.Thread(target=cancel)
    somebody.start()
    try:
        return at.run("template", "add", "far", f"{SLOW}.gz", "--format", "raw")
    finally:
        somebody.join(10)


def a_program_that_fails(at: Place) -> Said:
    def broken(*_: object) -> None:
        Runner().run(["sh", "-c", "echo no such device >&2; exit 3"])

    at.patch.setattr(at.appliance.box.store, "cold", broken)
    return at.run("cache", "cold")


CASES: list[tuple[str, Provoke, str, str]] = [
    # The code, how it comes about, words of the cause, words of the next step.
    ("error", a_bug_in_a_request, "ZeroDivisionError", "journalctl -u hatcheryd"),
    ("error", a_bug_in_a_job, "ZeroDivisionError", "hatchery support-bundle"),
    ("invalid-input", a_format_that_is_not_stated, "ends in none of", "--format raw"),
    ("invalid-input", a_url_that_is_none, "its host and port cannot be read", "give http://HOST/PATH"),
    ("invalid-input", a_relative_path, "does not begin with /", "as the appliance sees it"),
    ("bad-image", an_image_with_a_backing_file, "it is no whole image", "qemu-img convert"),
    ("bad-image", an_image_that_is_no_qcow2, "its magic number is missing", "state its real format"),
    ("bad-image", a_wrong_checksum, "its SHA-256 is", "fetch it again"),
    ("not-found", a_clone_that_is_not_there, "clone none does not exist", "hatchery clone list"),
    ("not-found", an_operation_that_is_not_there, "forgotten when hatcheryd restarts", "hatchery operation list"),
    ("not-found", a_path_that_is_not_there, "/none/disk.raw does not exist", "meant on the appliance"),
    ("not-found", a_url_that_is_not_there, "the server answered 404 Not Found", "look with `curl -I`"),
    ("not-found", a_url_that_wants_a_login, "the server answered 403 Forbidden", "it wants a login"),
    ("already-exists", a_name_that_is_taken, "clone web exists already", "choose another name"),
    ("in-use", a_template_that_has_clones, "web", "remove"),
    ("refused", a_client_that_must_stay, "it is this machine", "hatchery clone detach"),
    ("no-space", an_image_that_does_not_fit, "MiB", "use a smaller image"),
    ("not-ready", no_service, "No such file", "systemctl status hatcheryd"),
    ("not-ready", a_server_that_is_down, "Connection refused", "is the server up"),
    ("not-ready", a_program_that_is_missing, "is not installed", "install ssh"),
    ("unhealthy", a_storage_daemon_that_refuses, "the group is broken", "journalctl -u 'hatchery-nbd@*'"),
    ("cannot-tell", an_answer_of_another_release, "clones", "of different versions"),
    ("cannot-tell", an_answer_of_something_else, "a teapot", "of different versions"),
    ("deadline", no_answer, "it is busy, or hangs", "journalctl -u hatcheryd"),
    ("deadline", a_job_that_takes_too_long, "the appliance goes on with it", "hatchery operation follow"),
    ("cancelled", a_job_that_is_cancelled, "somebody asked for it", "begin it again"),
    ("command-failed", a_program_that_fails, "no such device", "journalctl -b"),
]


# httpcore leaves the socket open on which it reached nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("code", "provoke", "cause", "step"), CASES, ids=[case[1].__name__ for case in CASES])
def test_who_reads_it_learns_the_cause_and_the_next_step(
    appliance: Appliance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    provoke: Provoke,
    cause: str,
    step: str,
) -> None:
    status, out = provoke(Place(appliance, tmp_path, monkeypatch))
    error = json.loads(out)["error"]
    assert (error["code"], status) == (code, EXIT_STATUS[code]), error
    assert cause in f"{error['what']}: {error['why']}"
    assert step in error["hint"]


def test_every_class_is_provoked() -> None:
    wrong_words = {"wrong-command-line"}  # typer tells of them, and test_cli.py has them
    assert {kind.code for kind in all_errors()} == {code for code, *_ in CASES} == set(EXIT_STATUS) - wrong_words


def test_people_read_the_same_in_words(appliance: Appliance) -> None:
    _, out, err = appliance.run("operation", "show", "none")
    assert out == ""
    assert err == (
        "Error: operation none does not exist\n"
        "  why: operations are forgotten when hatcheryd restarts\n"
        "  do:  see which there are: `hatchery operation list`\n"
    )
