"""hatchery-attach without a kernel: URIs, the handshake by what a real server said, and messages byte for byte."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.attach import attachment, handshake, main, small, target
from appliance.attach.attachment import Options
from appliance.attach.connection import connections
from appliance.attach.handshake import GREETING_BYTES, REPLY_BYTES, Export, Negotiation, Reply
from appliance.attach.target import Target
from appliance.errors import HatcheryError, InvalidInput, NotFound, NotReady, Refused, Unhealthy
from appliance.host import nbd
from appliance.host.nbd import Device

DATA = Path(__file__).resolve().parents[1] / "data/qemu-storage-daemon"
WEB = Target("web", host="192.0.2.10", port=10809)


def recorded(case: str) -> bytes:
    """All that qemu-storage-daemon said to a client that asked for an export."""
    return bytes.fromhex((DATA / f"7.2-{case}.hex").read_text(encoding="ascii"))


def negotiate(said: bytes, wanted: Target = WEB) -> Export:
    """Go through a handshake with a server that says this."""
    handshake.answer(said[:GREETING_BYTES], wanted)
    rest, negotiation = said[GREETING_BYTES:], Negotiation(wanted)
    while rest:
        head = handshake.reply(rest[:REPLY_BYTES], wanted)
        export = negotiation.take(head, rest[REPLY_BYTES : REPLY_BYTES + head.length])
        rest = rest[REPLY_BYTES + head.length :]
        if export is not None:
            assert rest == b""
            return export
    raise AssertionError("the server said too little")


@pytest.mark.parametrize(
    ("uri", "wanted", "identifier"),
    [
        ("nbd://192.0.2.10/web", WEB, "nbd://192.0.2.10:10809/web"),
        ("nbd://192.0.2.10:10810/web", Target("web", "192.0.2.10", 10810), "nbd://192.0.2.10:10810/web"),
        ("nbd://[2001:db8::1]:10810/web", Target("web", "2001:db8::1", 10810), "nbd://[2001:db8::1]:10810/web"),
        (
            "nbd+unix:///web?socket=/run/a+b/nbd.sock",
            Target("web", socket=Path("/run/a+b/nbd.sock")),
            "nbd+unix:///web?socket=/run/a%2Bb/nbd.sock",
        ),
        ("nbd://box/two%20words%2F1", Target("two words/1", "box"), "nbd://box:10809/two%20words%2F1"),
        ("nbd://box", Target("", "box"), "nbd://box:10809/"),
    ],
)
def test_a_uri_has_one_form(uri: str, wanted: Target, identifier: str) -> None:
    assert target.parse(uri) == wanted
    assert wanted.identifier == identifier
    assert target.parse(identifier) == wanted


@pytest.mark.parametrize(
    "uri",
    [
        "web",
        "http://192.0.2.10/web",
        "nbd:///web",
        "nbd://192.0.2.10:99999/web",
        "nbd://192.0.2.10:0/web",
        "nbd://user@192.0.2.10/web",
        "nbd://192.0.2.10/web?socket=/run/nbd.sock",
        "nbd+unix:///web",
        "nbd+unix:///web?socket=nbd.sock",
        "nbd+unix://host/web?socket=/run/nbd.sock",
        "nbd+unix:///web?socket=/run/nbd.sock&tls-psk-file=/a",
    ],
)
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        target.parse(uri)


@pytest.mark.parametrize("uri", ["nbds://192.0.2.10/web", "nbds+unix:///web?socket=/run/nbd.sock"])
def test_a_uri_with_tls_is_refused_with_what_works(uri: str) -> None:
    with pytest.raises(Refused, match=r"no TLS.*qemu-storage-daemon"):
        target.parse(uri)


def test_an_export_is_described() -> None:
    export = negotiate(recorded("go"))
    assert export == Export(24 << 20, 0xD6D)
    assert export.many
    assert not export.read_only
    assert Export(1, 0x3).read_only
    assert not Export(1, 0x3).many


def test_the_answer_is_what_the_protocol_says() -> None:
    assert handshake.answer(recorded("go")[:GREETING_BYTES], WEB) == bytes.fromhex(
        "00000003"  # fixed newstyle, no zeroes
        "49484156454f5054 00000007 00000009"  # IHAVEOPT, GO, bytes that follow
        "00000003 776562 0000"  # web; no information asked for
    )
    # A server that would send zeroes is not told to leave them out: with GO there are none.
    assert handshake.answer(b"NBDMAGICIHAVEOPT\0\1", WEB)[:4] == b"\0\0\0\1"


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("unknown", NotFound, "192.0.2.10 port 10809 has no export 'db': it says: export 'db' not present"),
        ("tls", Refused, "lets nobody in without TLS: the kernel's NBD client has no TLS"),
    ],
)
def test_a_refusal_is_told_in_words(case: str, kind: type[HatcheryError], words: str) -> None:
    with pytest.raises(kind) as caught:
        negotiate(recorded(case), Target("db", host="192.0.2.10"))
    assert type(caught.value) is kind
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (1, Refused, "too old"),
        (2, Refused, "by its policy"),
        (3, Unhealthy, "error 3"),
        (4, Refused, "refuses web"),
        (7, NotReady, "shutting down"),
        (8, Refused, "512 bytes"),
        (9, Unhealthy, "error 9"),
        (77, Unhealthy, "error 77"),
    ],
)
def test_every_error_has_words(number: int, kind: type[HatcheryError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        Negotiation(WEB).take(Reply(1 << 31 | number, 0), b"")
    assert type(caught.value) is kind


def test_a_servers_words_cannot_move_the_cursor() -> None:
    with pytest.raises(Refused) as caught:
        Negotiation(WEB).take(Reply(1 << 31 | 2, 8), b"no\x1b[2J\xff!")
    assert caught.value.why == "it says: no [2J�!"


@pytest.mark.parametrize(
    "greeting", [b"", b"SSH-2.0-OpenSSH_10.0", b"NBDMAGIC", b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0", bytes(18)]
)
def test_who_does_not_speak_nbd_is_seen(greeting: bytes) -> None:
    with pytest.raises((Unhealthy, Refused), match=r"does not speak NBD|too old"):
        handshake.answer(greeting, WEB)


def test_replies_that_make_no_sense_are_seen() -> None:
    head = struct.Struct(">QIII")
    for bad in (
        head.pack(1, 7, 1, 0),
        head.pack(0x3E889045565A9, 6, 1, 0),
        head.pack(0x3E889045565A9, 7, 3, 1 << 30),
    ):
        with pytest.raises(Unhealthy, match="as it should"):
            handshake.reply(bad, WEB)
    with pytest.raises(Unhealthy, match="how large"):
        Negotiation(WEB).take(Reply(1, 0), b"")
    with pytest.raises(Unhealthy, match="as it should"):
        Negotiation(WEB).take(Reply(3, 3), b"\0\0\1")


@contextmanager
def server(folder: Path, says: bytes) -> Iterator[tuple[Target, list[socket.socket]]]:
    """A server that says the same to everybody; the sockets that it took in."""
    path, taken = folder / "nbd.sock", list[socket.socket]()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                taken.append(one)
                one.sendall(says)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Target("web", socket=path), taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in taken:
                one.close()


def hung_up(ends: list[socket.socket]) -> bool:
    """Whether all of a server's connections were ended by the client."""
    for end in ends:
        end.settimeout(10)
        try:
            while end.recv(4096):
                pass
        except ConnectionResetError:
            continue  # it left without reading all that was said
    return True


@pytest.mark.parametrize(("case", "count"), [("go", 3), ("one", 1)])
def test_connections_are_as_many_as_the_server_allows(case: str, count: int, tmp_path: Path) -> None:
    said = recorded("go")
    if case == "one":
        # The same, without the flag for several connections.
        said = said.replace(b"\x0d\x6d", b"\x0c\x6d")
    with server(tmp_path, said) as (wanted, taken):
        with connections(wanted, 3) as made:
            assert made.export.size == 24 << 20
            assert len(made.sockets) == len(taken) == count
            assert all(stream.getblocking() for stream in made.sockets)
        assert hung_up(taken)


@pytest.mark.parametrize(
    ("said", "kind"),
    [(recorded("unknown"), NotFound), (recorded("tls"), Refused), (b"220 hello there, said SMTP\r\n", Unhealthy)],
)
def test_nothing_stays_open_after_a_refusal(said: bytes, kind: type[HatcheryError], tmp_path: Path) -> None:
    with server(tmp_path, said) as (wanted, taken):
        with pytest.raises(kind), connections(wanted, 3):
            raise AssertionError("connected")
        assert len(taken) == 1
        assert hung_up(taken)


def small_export(size: int, *replies: bytes) -> bytes:
    """What a server says to who asks for an export of that size and reads it."""
    magic = 0x3E889045565A9
    greeting = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
    told = struct.pack(">QIII", magic, 7, 3, 12) + struct.pack(">HQH", 0, size, 3)
    return greeting + told + struct.pack(">QIII", magic, 7, 1, 0) + b"".join(replies)


def reply(offset: int, data: bytes, error: int = 0) -> bytes:
    """A simple reply, by which a read that began at ``offset`` is answered."""
    return struct.pack(">IIQ", 0x67446698, error, offset) + data


def test_a_small_export_is_read_whole(tmp_path: Path) -> None:
    data = b"boot set" * 200_000
    first, second = data[: 1 << 20], data[1 << 20 :]
    says = small_export(len(data), reply(0, first), reply(1 << 20, second))
    with server(tmp_path, says) as (where, _):
        assert small.read(where, len(data)) == data


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (small_export(4097), Refused, "too large"),
        (small_export(4, reply(0, b"", error=5)), Unhealthy, "cannot be read"),
        (small_export(4, reply(512, b"data")), Unhealthy, "cannot be read"),
    ],
)
def test_a_small_export_that_cannot_be_read_is_told(
    said: bytes, kind: type[HatcheryError], words: str, tmp_path: Path
) -> None:
    with server(tmp_path, said) as (where, _), pytest.raises(kind, match=words):
        small.read(where, 4096)


def test_a_server_that_is_not_there_can_be_waited_for(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="cannot be reached"), connections(Target("web", socket=tmp_path / "no"), 1):
        raise AssertionError("connected")


def test_a_device_is_asked_for_byte_for_byte() -> None:
    made = nbd.message(
        nbd.CONNECT,
        ("SIZE_BYTES", 24 << 20),
        ("BLOCK_SIZE_BYTES", 512),
        ("TIMEOUT", 0),
        ("SERVER_FLAGS", 0xD6D),
        ("DEAD_CONN_TIMEOUT", 600),
        ("BACKEND_IDENTIFIER", "nbd://a:1/b"),
        nbd.file_descriptors([5, 6]),
    )
    made.encode()
    pair = struct.Struct("=HHQ")
    sockets = b"".join(struct.pack("=HHHHI", 12, 1, 8, 1, number) for number in (5, 6))
    wanted = b"".join(pair.pack(12, *each) for each in ((2, 24 << 20), (3, 512), (4, 0), (5, 0xD6D), (8, 600)))
    wanted += struct.pack("=HH12s", 16, 10, b"nbd://a:1/b\0") + struct.pack("=HH", 28, 7) + sockets
    # Without netlink's header, in which the family's number and the sequence are filled in when it is sent.
    assert bytes(made.data)[16:] == struct.pack("=BBH", 1, 1, 0) + wanted
    assert struct.unpack("=I", bytes(made.data)[:4]) == (16 + 4 + len(wanted),)


def event(command: int, index: int) -> bytes:
    return struct.pack("=IHHII", 28, 30, 0, 0, 0) + struct.pack("=BBHHHI", command, 1, 0, 8, 1, index)


def test_the_kernels_events_are_read() -> None:
    assert nbd.dead(event(nbd.LINK_DEAD, 3)) == 3
    assert nbd.dead(event(nbd.STATUS, 3)) is None


def test_the_kernels_list_is_read() -> None:
    item = struct.pack("=HHHHIHHBxxx", 20, 1, 8, 1, 4, 5, 2, 1)
    body = struct.pack("=BBH", nbd.STATUS, 1, 0) + struct.pack("=HH", 4 + len(item), 9) + item
    read = nbd.Message(struct.pack("=IHHII", 16 + len(body), 30, 0, 0, 0) + body)
    read.decode()
    (found,) = read.get_attr("NBD_ATTR_DEVICE_LIST").get_attrs("NBD_DEVICE_ITEM")
    assert (found.get_attr("NBD_DEVICE_INDEX"), found.get_attr("NBD_DEVICE_CONNECTED")) == (4, 1)


@pytest.mark.parametrize(
    ("identifier", "mine"),
    [
        ("nbd://a:10809/b", True),
        ("nbd://a/b", False),
        ("rbd/pool/image", False),
        ("nbds://a:1/b", False),
        (None, False),
    ],
)
def test_devices_of_others_are_told_apart(identifier: str | None, mine: bool) -> None:
    assert attachment.ours(Device(0, identifier, 512, False)) is mine


@pytest.mark.parametrize("path", ["/dev/sda", "/dev/nbd", "/dev/nbdx", "nbd0p1"])
def test_only_devices_of_nbd_are_detached(path: str) -> None:
    with pytest.raises(NotFound):
        nbd.by_path(path)
    assert nbd.by_path("/dev/nbd12") == 12


@pytest.mark.parametrize("options", [Options(connections=0), Options(connections=17), Options(patience=0)])
def test_options_that_make_no_sense_are_refused(options: Options) -> None:
    with pytest.raises(InvalidInput):
        attachment.check(options)


def test_a_missing_module_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nbd, "_MODULE", tmp_path / "nbd")
    assert main.main(["--list", "--json"]) == main.FAILED
    out, err = capsys.readouterr()
    assert "modprobe nbd" in json.loads(out)["error"]["hint"]
    assert "modprobe nbd" in err


def test_tls_is_refused_before_the_kernel_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["nbds://192.0.2.10/web"]) == main.FAILED
    assert "docs/attach.md" in capsys.readouterr().err
