"""A disk that the appliance fetches over NBD, and the certificate that it shows for it, which is in a folder here."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from appliance import schema
from appliance.errors import InvalidInput
from appliance.words import size

_FILES = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
"""As `hatchery client certificate` writes them, and QEMU and libvirt want them."""

_FOLDER = "tls-certificates="


def is_one(source: str) -> bool:
    """Whether an argument names such a disk."""
    return source.startswith(("nbd://", "nbds://"))


def read(source: str, *, lazy: bool) -> schema.NbdSource:
    """What the appliance is asked for. Raises InvalidInput."""
    parts = urlsplit(source)
    identity = None
    if parts.scheme == "nbds":
        if not parts.query.startswith(_FOLDER) or "&" in parts.query:
            raise InvalidInput(
                f"{source} takes a certificate",
                why="an appliance lets in whom it gave one",
                hint="`hatchery client certificate` there writes it; say where it is here: ?tls-certificates=FOLDER",
            )
        identity = _identity(Path(unquote(parts.query.removeprefix(_FOLDER))))
        source = source.partition("?")[0]
    return schema.NbdSource(uri=source, identity=identity, lazy=lazy)


def words(view: schema.TemplateView) -> str:
    """How far a template is, for people."""
    if view.fetch is None:
        return "all"
    waiting = f"; it waits: {view.fetch.waiting}" if view.fetch.waiting else ""
    return f"{size(view.fetch.done_bytes)} of {size(view.size)}{waiting}"


def _identity(folder: Path) -> schema.ClientIdentity:
    try:
        authority, certificate, key = ((folder / name).read_text(encoding="ascii") for name in _FILES)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{folder} holds no certificate", why=str(error), hint=f"it must have {', '.join(_FILES)}"
        ) from error
    return schema.ClientIdentity(authority=authority, certificate=certificate, key=SecretStr(key))
