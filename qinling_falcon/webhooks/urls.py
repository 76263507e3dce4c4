"""The URLs of callbacks: parsed in one way when they are stored and when they are called."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass

LONGEST_URL = 2048
_PORTS = {"http": 80, "https": 443}
# Printable ASCII. A backslash is a slash to some programs and not to others.
_CHARACTERS = re.compile(r"[!-\[\]-~]+")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class ParsedUrl:
    """The parts of a URL.

    Attributes:
        is_secure: whether its scheme is `https`.
        host: a name, or an IP address without brackets.
        port: the port, also if the URL leaves it out.
        authority: host and port as the `Host` header has them.
        target: path and query.
    """

    is_secure: bool
    host: str
    port: int
    authority: str
    target: str


def parse_url(text: str) -> ParsedUrl:
    """Parse the URL of a callback.

    Raises:
        ValueError: the URL can't be used; the message says why.
    """
    if len(text) > LONGEST_URL:
        raise ValueError(f"must have at most {LONGEST_URL} characters.")
    if not _CHARACTERS.fullmatch(text):
        raise ValueError("must be a URL of printable ASCII characters. Percent-encode all others.")
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("must have a port from 1 to 65535, and brackets around an IPv6 address.") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("must be a URL that starts with http:// or https:// and has a host.")
    if "@" in parts.netloc:
        raise ValueError("must have no user and no password. Use callback_secret to sign the requests.")
    if "#" in text:
        raise ValueError("must have no fragment (#).")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("must have a port from 1 to 65535 after the colon.")
    host = parts.hostname
    shown = f"[{host}]" if ":" in host else host
    is_exact = parts.netloc.lower().partition(shown)[::2] in (("", ""), ("", f":{port}"))
    if not is_exact or (literal_address(host) is None and not _is_name(host)):
        raise ValueError("must have a host that is a DNS name or an IP address.")
    authority = shown if port in (None, _PORTS[parts.scheme]) else f"{shown}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return ParsedUrl(parts.scheme == "https", host, port or _PORTS[parts.scheme], authority, target)


def literal_address(host: str) -> str | None:
    """The host, if it is an IP address and not a name."""
    try:
        return str(ipaddress.ip_address(host)) if "%" not in host else None
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
