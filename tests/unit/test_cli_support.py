"""The archive for somebody who helps: it has what is needed, and no secret."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance import client, schema
from appliance.cli.main import main
from appliance.cli.support import PROGRAMS, collect, opened, write
from appliance.errors import InvalidInput, NotReady
from appliance.model import ImageFormat
from appliance.redact import LEFT_OUT, redact
from tests.unit.api_server import serving
from tests.unit.service_harness import IMAGE, box

SECRET = "hunter2-Xk93"  # noqa: S105 - it is what must not come out
HEX = "0123456789abcdef" * 4

KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\nmore{SECRET}\n-----END OPENSSH PRIVATE KEY-----"

HIDDEN = [
    KEY,
    KEY.split("-----END")[0],
    f"https://user:{SECRET}@mirror/disk.qcow2",
    f"fetching https://{SECRET}@mirror/disk.qcow2 failed",
    f"https://store/disk.raw?X-Amz-Signature={SECRET}&part=1",
    f"https://store/disk.raw?part=1&token={SECRET}",
    f"https://store/disk.raw?sig={SECRET}#top",
    f'password = "{SECRET}"',
    f'password = "quoted \\" {SECRET}"',
    f"db_password: {SECRET}",
    f'{{"api_key": "{SECRET}", "name": "x"}}',
    f"'secret': '{SECRET}'",
    f"HATCHERY_TOKEN={SECRET} hatcheryd",
    f"Authorization: Bearer {SECRET}",
    f"authorization: {SECRET}",
    f"Proxy-Authorization: Basic {SECRET}",
    f"tls_psk={SECRET}",
    f"passphrase:{SECRET}",
]

KEPT = [
    f"sha256 of debian@1: {HEX}",
    "nbd://192.0.2.10:10809/web-1",
    "https://mirror/debian-13.qcow2?arch=amd64",
    "root@box: /dev/mapper/hatchery-clone-7",
    "15:04:05 hatcheryd[12]: import of debian@1: started",
    "sda is refused: it has a signature: ext4",
    "nvme-Samsung_SSD_990_PRO_2TB_S7KHNJ0W100001",
    "0 41943040 thin-pool 253:0 253:1 128 0 2 error_if_no_space no_discard_passdown",
]


class Bytes:
    """What a URL gives, without the network."""

    def size(self) -> int:
        return len(IMAGE)

    def chunks(self) -> Iterator[bytes]:
        yield IMAGE

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_are_left_out(text: str) -> None:
    found = redact(f"before {text}\nafter")
    assert SECRET not in found
    assert LEFT_OUT in found
    assert found.startswith("before")


def test_a_key_that_both_sides_know_is_left_out() -> None:
    assert redact(f"hv1:{HEX}\n") == f"hv1:{LEFT_OUT}\n"


@pytest.mark.parametrize("text", KEPT)
def test_what_helps_is_kept(text: str) -> None:
    assert redact(text) == text


def test_what_follows_a_secret_is_kept() -> None:
    assert redact(f'password="{SECRET}", user="x"\nnext') == f'password={LEFT_OUT}, user="x"\nnext'
    assert redact(f"{KEY}\nnext") == f"{LEFT_OUT}\nnext"


def test_an_archive_has_everything_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is in a template's source, in a seed, in settings and in a log, and one program cannot be run."""

    def ask(argv: Sequence[str]) -> str:
        if argv[0] == "lsblk":
            raise NotReady("cannot run lsblk", why="the program is not installed")
        return f"output of {argv[0]}\n" + "\n".join(HIDDEN) + "\n"

    file = tmp_path / "bundle.tar.gz"
    with box(tmp_path) as appliance, serving(appliance):
        url = f"http://user:{SECRET}@127.0.0.1:1/disk.raw"
        wanted = schema.TemplateCreate(name="debian", format=ImageFormat.RAW, source=schema.UrlSource(url=url))
        monkeypatch.setattr(appliance.service.imports, "_open_url", lambda _: Bytes())
        assert appliance.service.imports.begin(wanted).finished.wait(20)
        assert appliance.service.show_template("debian").source == f"http://{LEFT_OUT}@127.0.0.1:1/disk.raw"
        seed = schema.SeedSpec.model_validate({"user_data": f"#!/bin/sh\necho {SECRET}\n"})
        appliance.service.create_clones(schema.CloneCreate(name="web", template="debian", seed=seed))
        with client.connect(socket=appliance.paths.api_socket) as connection, opened(file) as raw:
            count = write(raw, "bundle", collect(connection, ask))
    with tarfile.open(file) as archive:
        # It is None of what is no file, and all of these are files.
        texts = {entry.name: archive.extractfile(entry).read().decode() for entry in archive}  # type: ignore[union-attr]
    assert len(texts) == count
    assert {name for name in texts if not name.startswith("bundle/api/")} == {f"bundle/{name}" for name in PROGRAMS}
    assert [name for name, text in texts.items() if SECRET in text] == []
    assert '"health"' in texts["bundle/api/status.json"]
    assert '"checks"' in texts["bundle/api/doctor.json"]
    assert "output of journalctl" in texts["bundle/log.txt"]
    assert "could not be had: cannot run lsblk" in texts["bundle/disks.txt"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    file.write_text("mine")
    assert main(["--socket", str(tmp_path / "none"), "support-bundle", str(file)]) == 5
    assert file.read_text() == "mine"
    with pytest.raises(InvalidInput), opened(tmp_path / "nowhere" / "bundle.tar.gz"):
        pass


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"

    def half() -> Iterator[tuple[str, str]]:
        yield "status.json", "{}"
        raise NotReady("the appliance went away")

    with pytest.raises(NotReady), opened(file) as raw:
        write(raw, "bundle", half())
    assert not file.exists()
