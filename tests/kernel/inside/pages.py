"""What the commands of the documentation are about: an appliance with the pages' names, and files beside them."""

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from appliance import wait
from appliance.client import Client, connect
from appliance.run import Runner
from appliance.schema import ClientSpec, CloneCreate
from tests import own_authority as own
from tests.kernel.inside.service import add_image, content

ADDRESS = "192.0.2.10"
"""The appliance's, on all pages."""

TEMPLATE = "debian-13"


def appear() -> None:
    """Give this machine the appliance's address, and the operator his key for SSH."""
    Runner().run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"])
    key = Path("/root/.ssh/id_ed25519")
    key.parent.mkdir(mode=0o700, exist_ok=True)
    Runner().run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])


def begin(folder: str, clients: Mapping[str, int], clones: Mapping[str, str]) -> None:
    """Make a folder with the files that pages name, clients at their ports (10810: plain), and clones for clients.

    Nothing is left of a page before. Where there are clones, there is a template.
    """
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    Path("disk.raw").write_bytes(content())
    Runner().run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "disk.raw", f"{TEMPLATE}.qcow2"])
    Path("disk.raw").unlink()
    Path("web.yaml").write_text("#cloud-config\npackage_update: true\n", encoding="ascii")
    Path("script").symlink_to("/hatchery/script")
    _certificates()
    with connect() as api:
        _clear(api)
        for name, port in clients.items():
            plain = port == 10810
            api.put_client(name, ClientSpec(transport="tcp", address=ADDRESS, port=port, plain=plain))
    if clones:
        add_image(TEMPLATE, seed=2)
    with connect() as api:
        for name, client in clones.items():
            api.create_clones(CloneCreate(name=name, template=TEMPLATE, client=client))


def _certificates() -> None:
    """An operator's own authority and what it signed, by the names in docs/security.md."""
    root = own.authority("O=Example,CN=root")
    authority = own.authority("O=Example,CN=hatchery", root)
    server, client = own.leaf("CN=box", authority, "server", [ADDRESS]), own.leaf("O=hv1,CN=7", authority, "client")
    for name, made in (("root", root), ("hatchery-ca", authority), ("box", server), ("hv1", client)):
        Path(f"{name}.pem").write_text(made.certificate, encoding="ascii")
        Path(f"{name}.key").write_text(made.key, encoding="ascii")


def _clear(api: Client) -> None:
    """Remove everything."""
    for clone in api.clones():
        api.remove_clone(clone.name, force=True)
    for template in api.templates():
        wait.until(partial(_went, api, template.ref), f"{template.ref} to go", deadline=60)
    for client in api.clients():
        if client.name != "local":
            api.remove_client(client.name)
    if api.authority().given:
        api.renew_authority(force=True)


def _went(api: Client, ref: str) -> bool:
    """Whether a template is gone; it may be the last clone that takes a while."""
    return ref not in {view.ref for view in api.templates()} or api.remove_template(ref).removed


def running(kind: str) -> str:
    """Wait until an operation of that kind runs; its id."""

    def found() -> str | None:
        with connect() as api:
            return next((each.id for each in api.operations() if each.kind == kind and each.state == "running"), None)

    return wait.until(found, f"an operation: {kind}", deadline=30)


def end_of(words: str) -> None:
    """End the processes that have these words in their command line."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in line.read_bytes() and line.parent.name != str(os.getpid()):
                os.kill(int(line.parent.name), signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            continue
