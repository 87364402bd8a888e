"""A service that is near: the real one, over the model of the store, reached by a program that is named as SSH is."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.host import netlink
from appliance.run import Runner
from appliance.schema import ClientSpec
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box

ADDRESS, PORT = "192.0.2.10", 10809
"""Where the service says that its client reaches its clones."""

CLIENT, TEMPLATE, DESTINATION = "hv1", "debian-13", "root@192.0.2.10"

_SSH = """\
#!/bin/sh
# The way to the appliance, which is here: of `-L HERE:THERE`, HERE is made.
for word; do
    case $word in *:/*) ln -s {socket} "${{word%%:*}}" ;; esac
done
exec sleep infinity
"""


def certificate(made: Box, folder: Path) -> Path:
    """A folder with the client's certificate, made by the command for it."""
    words = ["--socket", str(made.paths.api_socket), "client", "certificate", CLIENT]
    Runner().run([sys.executable, "-m", "appliance.cli.main", *words, folder])
    return folder


@contextmanager
def service(folder: Path, monkeypatch: pytest.MonkeyPatch, *, plain: bool) -> Iterator[Box]:
    """A service that has the template and the client, which is one by plain NBD or by TLS."""
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({ADDRESS}))
    folder.mkdir()
    with box(folder) as made:
        made.add_template(TEMPLATE)
        made.service.put_client(CLIENT, ClientSpec(transport="tcp", address=ADDRESS, port=PORT, plain=plain))
        ssh = folder / "bin/ssh"
        ssh.parent.mkdir()
        ssh.write_text(_SSH.format(socket=made.paths.api_socket), encoding="ascii")
        ssh.chmod(0o755)
        monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        with serving(made):
            yield made
