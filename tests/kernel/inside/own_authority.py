"""Certificates that an operator's own authority signs, as files of the lab."""

from pathlib import Path

from tests import own_authority as own

FOLDER = Path("/run/own")


def make(address: str) -> None:
    """A root, an authority below it, a certificate of the appliance, two clients', a request."""
    root = own.authority("O=Example,CN=root")
    below = own.authority("O=Example,CN=hatchery", root)
    FOLDER.mkdir()
    for name, made in (
        ("root", root),
        ("below", below),
        ("server", own.leaf("CN=box", below, "server", [address])),
        ("client", own.leaf("O=hv1,CN=signed outside 1", below, "client")),
        ("stranger", own.leaf("O=hv1,CN=never given", below, "client")),
    ):
        (FOLDER / f"{name}.pem").write_text(made.certificate, encoding="ascii")
        (FOLDER / f"{name}.key").write_text(made.key, encoding="ascii")
    request, key = own.request("CN=anything")
    (FOLDER / "request.csr").write_text(request, encoding="ascii")
    (FOLDER / "request.key").write_text(key, encoding="ascii")


def complete(folder: str, key: str) -> None:
    """Put the key that never left into a folder that has the certificate."""
    (Path(folder) / "client-key.pem").write_text((FOLDER / key).read_text(encoding="ascii"), encoding="ascii")


def as_client(like: str, folder: str, name: str) -> None:
    """A folder like another one with a certificate that the appliance was never given."""
    where = Path(folder)
    where.mkdir()
    (where / "ca-cert.pem").write_bytes((Path(like) / "ca-cert.pem").read_bytes())
    (where / "client-cert.pem").write_bytes((FOLDER / f"{name}.pem").read_bytes())
    (where / "client-key.pem").write_bytes((FOLDER / f"{name}.key").read_bytes())
