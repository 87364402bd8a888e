"""How a clone is reached: NBD URIs and QEMU command line words. Pure."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from appliance.catalog import Client, Clone
from appliance.host.storage_daemon import Files, Listen
from appliance.service.seed_files import name_of

RECONNECT_SECONDS = 600
"""How long a guest's requests wait: for a storage daemon that restarts, and for the appliance itself, whose firmware
may take minutes. QEMU's default is not at all."""


CERTIFICATES = "/etc/pki/libvirt-nbd"
"""Where a hypervisor keeps its certificate: libvirt looks there, and nothing speaks against it elsewhere."""

_TLS = "hatchery-tls"
"""Id of the certificate's object in QEMU."""


def listen(client: Client, folder: Path) -> Listen:
    """Where the client's storage daemon listens."""
    if client.transport == "unix":
        return Listen(path=Files(folder).socket)
    return Listen(address=client.address, port=client.port, tls=client.tls)


def uri(where: Listen, name: str = "") -> str:
    """The NBD URI of an export (NetworkBlockDevice/nbd, doc/uri.md); without a name, of the server.

    With TLS, an export's names the folder of the client's certificate, as libnbd wants it.
    """
    if where.path is not None:
        return f"nbd+unix:///{name}?socket={where.path}"
    host = f"[{where.address}]" if where.address and ":" in where.address else where.address
    if not where.tls:
        return f"nbd://{host}:{where.port}/{name}"
    return f"nbds://{host}:{where.port}/{name}" + (f"?tls-certificates={CERTIFICATES}" if name else "")


def qemu_words(clone: Clone, where: Listen) -> tuple[str, ...]:
    """Words for QEMU's command line that give a guest this disk.

    ``werror=enospc`` pauses the guest when the pool is full, instead of showing it an error.
    """
    blockdev = _blockdev(f"clone-{clone.thin_id}", clone.name, where) | {"discard": "unmap"}
    blockdev["cache"] = {"direct": True, "no-flush": False}
    words: tuple[str, ...] = ()
    if where.tls:
        settings = {
            "qom-type": "tls-creds-x509",
            "id": _TLS,
            "endpoint": "client",
            "dir": CERTIFICATES,
            "verify-peer": True,
        }
        words = ("-object", json.dumps(settings))
    drive = f"virtio-blk-pci,drive=clone-{clone.thin_id},id=disk-{clone.thin_id}"
    device = f"{drive},write-cache=on,werror=enospc,rerror=report"
    words += ("-blockdev", json.dumps(blockdev), "-device", device)
    if clone.seed is not None:
        seed = _blockdev(f"seed-{clone.thin_id}", name_of(clone.name), where) | {"read-only": True}
        words += ("-blockdev", json.dumps(seed), "-device", f"virtio-blk-pci,drive=seed-{clone.thin_id}")
    return words


def _blockdev(node: str, export: str, where: Listen) -> dict[str, Any]:
    found = {
        "driver": "nbd",
        "node-name": node,
        "server": where.words(),
        "export": export,
        "reconnect-delay": RECONNECT_SECONDS,
    }
    return found | ({"tls-creds": _TLS} if where.tls else {})


def libvirt_disk(clone: Clone, where: Listen) -> str:
    """The clone as a disk of a libvirt domain (libvirt's docs/formatdomain.rst), and after it its seed as another.

    libvirt takes the certificate from the folder that its ``qemu.conf`` names.
    """
    disk = ElementTree.Element("disk", type="network", device="disk")
    ElementTree.SubElement(
        disk, "driver", name="qemu", type="raw", cache="none", discard="unmap", error_policy="enospace"
    )
    _network(disk, clone.name, where)
    ElementTree.SubElement(disk, "target", dev="vda", bus="virtio")
    if clone.seed is None:
        return _text(disk)
    seed = ElementTree.Element("disk", type="network", device="disk")
    ElementTree.SubElement(seed, "driver", name="qemu", type="raw")
    _network(seed, name_of(clone.name), where)
    ElementTree.SubElement(seed, "target", dev="vdb", bus="virtio")
    ElementTree.SubElement(seed, "readonly")
    return f"{_text(disk)}\n{_text(seed)}"


def _network(disk: ElementTree.Element, export: str, where: Listen) -> None:
    source = ElementTree.SubElement(disk, "source", protocol="nbd", name=export)
    if where.tls:
        source.set("tls", "yes")
    if where.path is not None:
        ElementTree.SubElement(source, "host", transport="unix", socket=str(where.path))
    else:
        ElementTree.SubElement(source, "host", name=str(where.address), port=str(where.port))
    ElementTree.SubElement(source, "reconnect", delay=str(RECONNECT_SECONDS))


def _text(disk: ElementTree.Element) -> str:
    ElementTree.indent(disk)
    return ElementTree.tostring(disk, encoding="unicode")
