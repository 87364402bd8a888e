"""Secrets taken out of text that leaves the appliance. Pure."""

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
