"""How a clone is reached: NBD URIs and QEMU command line words. Pure."""

import json
from pathlib import Path

from appliance.catalog import Client, Clone
from appliance.host.storage_daemon import Files, Listen

RECONNECT_SECONDS = 600
"""How long a guest's requests wait: for a storage daemon that restarts, and for the appliance itself, whose firmware
may take minutes. QEMU's default is not at all."""


def listen(client: Client, folder: Path) -> Listen:
    """Where the client's storage daemon listens."""
    if client.transport == "unix":
        return Listen(path=Files(folder).socket)
    return Listen(address=client.address, port=client.port)


def uri(where: Listen, name: str = "") -> str:
    """The NBD URI of an export (NetworkBlockDevice/nbd, doc/uri.md); without a name, of the server."""
    if where.path is not None:
        return f"nbd+unix:///{name}?socket={where.path}"
    host = f"[{where.address}]" if where.address and ":" in where.address else where.address
    return f"nbd://{host}:{where.port}/{name}"


def qemu_words(clone: Clone, where: Listen) -> tuple[str, ...]:
    """Words for QEMU's command line that give a guest this disk.

    ``werror=enospc`` pauses the guest when the pool is full, instead of showing it an error.
    """
    node = f"clone-{clone.thin_id}"
    blockdev = {
        "driver": "nbd",
        "node-name": node,
        "server": where.words(),
        "export": clone.name,
        "reconnect-delay": RECONNECT_SECONDS,
        "discard": "unmap",
        "cache": {"direct": True, "no-flush": False},
    }
    device = f"virtio-blk-pci,drive={node},id=disk-{clone.thin_id},write-cache=on,werror=enospc,rerror=report"
    return ("-blockdev", json.dumps(blockdev), "-device", device)
