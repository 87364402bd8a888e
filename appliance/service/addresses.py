"""How a clone is reached: NBD URIs and QEMU command line words. Pure."""

import json
from pathlib import Path
from xml.etree import ElementTree

from appliance.catalog import Client, Clone
from appliance.host.storage_daemon import Files, Listen

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
        blockdev["tls-creds"] = _TLS
    device = f"virtio-blk-pci,drive={node},id=disk-{clone.thin_id},write-cache=on,werror=enospc,rerror=report"
    return (*words, "-blockdev", json.dumps(blockdev), "-device", device)


def libvirt_disk(clone: Clone, where: Listen) -> str:
    """The clone as a disk of a libvirt domain (libvirt's docs/formatdomain.rst).

    libvirt takes the certificate from the folder that its ``qemu.conf`` names.
    """
    disk = ElementTree.Element("disk", type="network", device="disk")
    ElementTree.SubElement(
        disk, "driver", name="qemu", type="raw", cache="none", discard="unmap", error_policy="enospace"
    )
    source = ElementTree.SubElement(disk, "source", protocol="nbd", name=clone.name)
    if where.tls:
        source.set("tls", "yes")
    if where.path is not None:
        ElementTree.SubElement(source, "host", transport="unix", socket=str(where.path))
    else:
        ElementTree.SubElement(source, "host", name=str(where.address), port=str(where.port))
    ElementTree.SubElement(source, "reconnect", delay=str(RECONNECT_SECONDS))
    ElementTree.SubElement(disk, "target", dev="vda", bus="virtio")
    ElementTree.indent(disk)
    return ElementTree.tostring(disk, encoding="unicode")
