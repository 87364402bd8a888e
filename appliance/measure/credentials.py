"""The certificate with which this machine reaches clones over TLS: in a folder, as `hatchery client certificate` writes
it, and as QEMU and libnbd take it."""

import time
from pathlib import Path

from appliance.schema import ClientView

FOLDER = Path("/etc/pki/libvirt-nbd")
"""Where a hypervisor keeps it: what the appliance shows of a clone says so too."""

CERTIFICATE = "client-cert.pem"
FILES = ("ca-cert.pem", CERTIFICATE, "client-key.pem")


def missing(view: ClientView, folder: Path) -> str:
    """Why the certificate in ``folder`` does not let in to the client's clones, in words; empty when it does."""
    from cryptography import x509  # a slow library that no other command needs

    try:
        for name in FILES:
            (folder / name).read_bytes()
        serial = f"{x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes()).serial_number:040x}"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except ValueError:
        return f"{folder / CERTIFICATE} is no certificate"
    found = next((each for each in view.certificates if each.serial == serial), None)
    if found is None:
        return f"the certificate in {folder} is not one of client {view.name}"
    if found.revoked is not None:
        return f"the certificate in {folder} was revoked"
    return "" if time.time() < found.expires else f"the certificate in {folder} is not good any more"
