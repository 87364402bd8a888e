"""The commands that move templates between appliances, over the real API, with models below."""

import threading
from pathlib import Path

import pytest

from appliance.cli import nbd_source
from appliance.errors import InvalidInput
from appliance.words import size
from tests.unit.service_harness import IMAGE
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]

URI = "nbds://192.0.2.1:10809/debian@1"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a client's certificate."""
    folder = tmp_path / "box2"
    folder.mkdir()
    for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem"):
        (folder / name).write_text(f"the content of {name}")
    return folder


def test_a_certificate_is_read_where_the_command_runs(appliance: Appliance, certificate: Path) -> None:
    appliance.box.remotes.disks["debian@1"] = IMAGE
    view = appliance.json("template", "add", "far", f"{URI}?tls-certificates={certificate}", "--lazy")
    assert view["source"] == URI
    shown = appliance.box.remotes.identities[0]
    assert shown is not None
    assert (shown.certificate, shown.key) == ("the content of client-cert.pem", "the content of client-key.pem")
    for more, words in (
        ("", "takes a certificate"),
        ("?x=1", "takes a certificate"),
        (f"?tls-certificates={certificate}/no", "holds no certificate"),
    ):
        with pytest.raises(InvalidInput, match=words):
            nbd_source.read(URI + more, lazy=False)
    status, _, err = appliance.run("template", "add", "far", "/nowhere.raw", "--lazy")
    assert (status, "--lazy is for nbd://" in err) == (3, True)


def test_how_far_a_template_is_stands_with_it(appliance: Appliance) -> None:
    gate, began = threading.Event(), threading.Event()

    def guests() -> int:
        began.set()
        gate.wait(20)
        return 0

    appliance.box.store.guests = guests
    appliance.box.remotes.disks["debian@1"] = IMAGE
    appliance.json("template", "add", "far", "nbd://192.0.2.1/debian@1", "--lazy")
    assert began.wait(10)
    try:
        view = appliance.box.service.show_template("far")
        assert nbd_source.words(view) == f"0 B of {size(len(IMAGE))}"
        assert view.fetch is not None
        waiting = view.model_copy(update={"fetch": view.fetch.model_copy(update={"waiting": "it is away"})})
        assert nbd_source.words(waiting).endswith("; it waits: it is away")
        status, out, _ = appliance.run("template", "show", "far")
        assert (status, "fetching" in out, f"0 B of {size(len(IMAGE))}" in out) == (0, True, True)
    finally:
        gate.set()


def test_a_template_is_offered_and_withdrawn(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian", str(image))
    appliance.json("client", "add", "box2", "--tcp", "127.0.0.1:10811", "--plain")
    status, out, _ = appliance.run("template", "offer", "debian", "box2")
    assert (status, out) == (0, "nbd://127.0.0.1:10811/debian@1\n")
    assert appliance.json("template", "offer", "debian", "box2")["boot_set"] is False
    assert "offered to: box2" in appliance.run("template", "show", "debian")[1].replace("  ", " ")
    status, _, err = appliance.run("template", "remove", "debian")
    assert (status, "withdraw it first" in err) == (6, True)
    assert appliance.json("template", "withdraw", "debian", "box2")["removed"]
    assert not appliance.json("template", "withdraw", "debian", "box2")["removed"]
    assert appliance.run("template", "offer", "debian", "nobody")[0] != 0


def test_a_template_is_made_of_a_clone(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian", str(image))
    appliance.json("clone", "create", "web", "-t", "debian")
    assert appliance.json("template", "add", "golden", "--from-clone", "web")["ref"] == "golden@1"
    for words in ((), (str(image), "--from-clone", "web"), ("--from-clone", "web", "--format", "raw")):
        status, _, err = appliance.run("template", "add", "golden", *words)
        assert (status, "not clear what to import" in err) == (3, True), words
