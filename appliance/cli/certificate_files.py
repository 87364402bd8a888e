"""A client's certificate as files: in a folder, named as QEMU, libvirt and libnbd look for them, or as an archive."""

import io
import os
import tarfile
from pathlib import Path
from typing import IO

from appliance import schema
from appliance.errors import AlreadyExists, HatcheryError, Refused

AUTHORITY, CERTIFICATE, KEY = "ca-cert.pem", "client-cert.pem", "client-key.pem"


def check_folder(folder: Path, *, replace: bool) -> None:
    """See that the files can be written before the certificate is made: its key is handed out once.

    Makes the folder, for its owner alone. Raises AlreadyExists when it holds a certificate and ``replace`` is off,
    Refused when it cannot be written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = [name for name in (CERTIFICATE, KEY) if (folder / name).exists()]
    except OSError as error:
        raise Refused(
            f"{folder} cannot be used", why=error.strerror or str(error), hint="name a folder that you may write to"
        ) from error
    if held and not replace:
        raise AlreadyExists(f"{folder} holds {held[0]} already", hint="name another folder, or move it away")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Refused(
            f"{folder} cannot be written to",
            why="its mode forbids it to this user",
            hint="name a folder that you may write to",
        )


def write_folder(bundle: schema.CertificateBundle, folder: Path) -> None:
    """Write the three files, for their owner alone. Those that are there are replaced when all new ones are written.

    Raises Refused.
    """
    fresh = [(folder / f".{name}.new", folder / name, content) for name, content in _files(bundle)]
    try:
        for unfinished, _, content in fresh:
            unfinished.unlink(missing_ok=True)
            handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:  # noqa: PTH123  a descriptor
                file.write(content)
                file.flush()
                os.fsync(handle)
        for unfinished, final, _ in fresh:
            unfinished.replace(final)
    except OSError as error:
        for unfinished, _, _ in fresh:
            unfinished.unlink(missing_ok=True)
        raise lost(bundle, error.strerror or str(error)) from error


def write_tar(bundle: schema.CertificateBundle, target: IO[bytes]) -> None:
    """Write the three files as a tar archive. Raises Refused."""
    try:
        with tarfile.open(fileobj=target, mode="w|") as archive:
            for name, content in _files(bundle):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(bundle.issued)
                archive.addfile(entry, io.BytesIO(content))
        target.flush()
    except OSError as error:
        raise lost(bundle, error.strerror or str(error)) from error


def lost(bundle: schema.CertificateBundle, why: str) -> HatcheryError:
    """The error of a certificate whose key came to nobody."""
    return Refused(
        f"the certificate {bundle.serial} could not be written",
        why=why,
        hint=f"revoke it with `hatchery client revoke {bundle.client} --serial {bundle.serial}`, and make another",
    )


def _files(bundle: schema.CertificateBundle) -> tuple[tuple[str, bytes], ...]:
    files = ((AUTHORITY, bundle.authority.encode()), (CERTIFICATE, bundle.certificate.encode()))
    key = bundle.key.get_secret_value()
    # Without one, it is where the request was made.
    return (*files, (KEY, key.encode())) if key else files
