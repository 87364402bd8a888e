"""Secrets taken out of what is shown: of a URL before it is shown at all, of text that leaves the appliance. Pure."""

import re

LEFT_OUT = "[left out]"

_WORDS = r"pass(?:word|wd|phrase)|secret|token|psk|api[_-]?key|private[_-]?key|credential"

_PEM = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
"""A private key (RFC 7468), to its end or to the end of the text."""

_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@\"'<>]+@", re.IGNORECASE)
"""Who logs in, and with what, in a URL (RFC 3986, section 3.2.1)."""

_QUERY = re.compile(rf"([?&][\w.-]*(?:{_WORDS}|sig|auth|key)[\w.-]*=)[^&\s\"'#<>]+", re.IGNORECASE)
"""What signs a URL."""

_SETTING = re.compile(
    rf"([\w.-]*(?:{_WORDS})[\w.-]*[\"']?\s*[:=]\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;}}\]]+)", re.IGNORECASE
)
"""A setting, an environment variable, or a field in JSON."""

_HEADER = re.compile(r"(\b(?:proxy-)?authorization\b[\"']?\s*[:=]\s*[\"']?)(?:(\w+)[ ]+)?[^\s\"',]+", re.IGNORECASE)
"""An HTTP header."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#]*)([^?#]*)(.?)", re.IGNORECASE | re.DOTALL)
"""A URL (RFC 3986): scheme, authority, path, and whether more follows."""

_HOST = re.compile(r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::[0-9]*)?", re.IGNORECASE)
"""A host and a port. What is none may be a password with a character that it must not have there."""

_PSK_LINE = re.compile(r"^([\w.@-]+:)[0-9a-f]{32,}$", re.IGNORECASE | re.MULTILINE)
"""A line of a file of TLS keys that both sides know (GnuTLS's psk.passwd)."""


def redact(text: str) -> str:
    """The text without keys, passwords, tokens, and what in a URL gives access; rather too much than too little."""
    text = _PEM.sub(LEFT_OUT, text)
    text = _USERINFO.sub(rf"\1{LEFT_OUT}@", text)
    text = _QUERY.sub(rf"\1{LEFT_OUT}", text)
    text = _HEADER.sub(rf"\1{LEFT_OUT}", text)
    text = _SETTING.sub(rf"\1{LEFT_OUT}", text)
    return _PSK_LINE.sub(rf"\1{LEFT_OUT}", text)


def shown_url(url: str) -> str:
    """A URL as it may be shown, logged and kept: without who logs in, and without its query and fragment.

    What in a query signs the URL, and what does not, only its server knows. Of what is no URL, nothing that could be
    a login is shown either. Done twice, it is as done once.
    """
    found = _URL.match(url)
    if found is None:
        shown = re.split("[?#]", url, maxsplit=1)
        return _without_login(shown[0]) + (f"?{LEFT_OUT}" if len(shown) > 1 else "")
    scheme, authority, path, more = found.groups()
    host = _without_login(authority)
    if not _HOST.fullmatch(host.removeprefix(f"{LEFT_OUT}@")):
        return f"{scheme}{LEFT_OUT}"
    return f"{scheme}{host}{path}" + (f"?{LEFT_OUT}" if more else "")


def _without_login(text: str) -> str:
    login, _, rest = text.rpartition("@")
    return f"{LEFT_OUT}@{rest}" if login else rest
