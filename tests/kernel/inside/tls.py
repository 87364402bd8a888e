"""Clients over TLS: QEMU's and libnbd's own, and one that does what those refuse to do.

Source of the negotiation: the NBD project's doc/proto.md (fixed newstyle, options EXPORT_NAME, LIST and STARTTLS).
"""

import json
import signal
import socket
import sqlite3
import ssl
import struct
import time
from pathlib import Path

from appliance import pki, wait
from appliance.cli.certificate_files import AUTHORITY, CERTIFICATE, KEY
from appliance.client import connect
from appliance.config import Paths
from appliance.host.storage_daemon import Files
from appliance.measure import reach
from appliance.run import Runner

ADDRESS = "127.0.0.1"
_REPLY = struct.Struct(">QIII")
_EXPORT_NAME, _LIST, _STARTTLS = 1, 3, 5
_ACK, _SERVER = 1, 2


def _option(stream: socket.socket, number: int, data: bytes = b"") -> None:
    stream.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)


def _receive(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("the server hung up")
        data += piece
    return data


def _reply(stream: socket.socket) -> tuple[int, bytes]:
    _, _, kind, size = _REPLY.unpack(_receive(stream, _REPLY.size))
    return kind, _receive(stream, size)


def _greet(port: int) -> socket.socket:
    """Connect, and be ready to choose options."""
    raw = socket.create_connection((ADDRESS, port), timeout=20)
    _receive(raw, 18)
    raw.sendall(struct.pack(">I", 3))
    return raw


def _enter(port: int, folder: str | None, newest: str) -> ssl.SSLSocket:
    """Connect and change to TLS, with the certificate in ``folder`` or none. The server is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority().certificate)
    context.maximum_version = ssl.TLSVersion[newest]
    if folder is not None:
        context.load_cert_chain(f"{folder}/{CERTIFICATE}", f"{folder}/{KEY}")
    raw = _greet(port)
    _option(raw, _STARTTLS)
    assert _reply(raw)[0] == _ACK
    return context.wrap_socket(raw, server_hostname=ADDRESS)


def exports(port: int, folder: str | None, newest: str = "TLSv1_3", *, plain: bool = False) -> list[str]:
    """The names that the server lists for the certificate in ``folder``, or in plain text.

    Raises OSError when it is not let in.
    """
    names = []
    with _greet(port) if plain else _enter(port, folder, newest) as stream:
        _option(stream, _LIST)
        while (answer := _reply(stream))[0] == _SERVER:
            (length,) = struct.unpack(">I", answer[1][:4])
            names.append(answer[1][4 : 4 + length].decode())
    return names


def hold(port: int, folder: str, name: str, entered: str) -> str:
    """Use an export and hold the connection until the server ends it. The file ``entered`` says that it began."""
    with _enter(port, folder, "TLSv1_3") as stream:
        _option(stream, _EXPORT_NAME, name.encode())
        _receive(stream, 10)
        Path(entered).touch()
        stream.settimeout(120)
        try:
            return "data" if stream.recv(1) else "ended"
        except ConnectionError:
            return "ended"


def occupy(port: int, entered: str) -> None:
    """Listen on a port, as any program may. The file ``entered`` says that it began."""
    with socket.create_server((ADDRESS, port)):
        Path(entered).touch()
        signal.pause()


def wait_for(path: str) -> None:
    """Wait until a file is there."""
    wait.until(lambda: Path(path).exists(), path, deadline=30)


def authority() -> pki.Authority:
    """The appliance's authority, from its catalog."""
    database = sqlite3.connect(f"file:{Paths().catalog}?mode=ro", uri=True)
    try:
        return pki.Authority(*database.execute("SELECT certificate, key FROM authority").fetchone())
    finally:
        database.close()


def strangers_certificate(client: str, folder: str) -> None:
    """A certificate for ``client`` by another authority."""
    _keep(pki.client(pki.new_authority(time.time()), client, time.time(), 86400.0), folder)


def unlisted_certificate(client: str, folder: str) -> None:
    """A certificate for ``client`` by the appliance's own authority that the catalog does not know."""
    _keep(pki.client(authority(), client, time.time(), 86400.0), folder)


def _keep(made: pki.Issued, folder: str) -> None:
    where = Path(folder)
    where.mkdir()
    for name, content in ((AUTHORITY, authority().certificate), (CERTIFICATE, made.certificate), (KEY, made.key)):
        (where / name).write_text(content)


def said(client: str, words: str) -> None:
    """Wait until a client's daemon has said something."""
    log = Files(Paths().nbd(client)).log
    wait.until(lambda: words in log.read_text(encoding="utf-8", errors="replace"), f"{words!r} in {log}", deadline=20)


def as_it_is_shown(clone: str, *commands: str) -> str:
    """Run commands of qemu-io on a clone by the words for QEMU that the appliance shows."""
    with connect() as api:
        words = api.clone(clone).qemu
    options = {word: words[at + 1] for at, word in enumerate(words) if word.startswith("-")}
    blockdev = json.loads(options["-blockdev"])
    del blockdev["node-name"]
    asked = [word for command in commands for word in ("-c", command)]
    done = Runner().run(["qemu-io", "--object", options["-object"], *asked, f"json:{json.dumps(blockdev)}"])
    return done.stdout


def qemu_says(port: int, folder: str | None, name: str) -> str:
    """What qemu-img says of an export, with the certificate in ``folder`` or in plain text."""
    where = f"driver=nbd,host={ADDRESS},port={port},export={name}"
    words = ["qemu-img", "info"]
    if folder is not None:
        words += ["--object", f"tls-creds-x509,id=t,endpoint=client,dir={folder},verify-peer=on"]
        where += ",tls-creds=t"
    done = Runner().run([*words, "--image-opts", where], check=False)
    return done.stdout + done.stderr


def as_it_is_measured(clone: str) -> str:
    """What qemu-img says of a clone, asked as a guest is started that is measured."""
    with connect() as api, reach.reachable(api.clone(clone), reach.Access(), None, Runner()) as target:
        words = [*target.objects, "--image-opts", f"driver=nbd,{target.server},export={target.export}"]
        return Runner().run(["qemu-img", "info", *(word.replace("-object", "--object", 1) for word in words)]).stdout


def write_trace(path: str) -> None:
    """A boot that reads the first MiB of a disk."""
    Path(path).write_text("".join(f"{place} 65536\n" for place in range(0, 1 << 20, 65536)), encoding="utf-8")


def later(days: int) -> None:
    """Set the clock on."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + days * 86400)
