"""How messages name an external server and the reason why it does not serve, without secrets.

`make run` (`workers.run.neighbours`) and the release step (`models.migrate`) wait for such servers.
"""

from __future__ import annotations

import urllib.parse

CONNECT_TIMEOUT_S = 2
"""Time limit for one attempt to connect. It includes the login, so a server that accepts and never answers counts."""
SAY_AFTER_S = 1.0
"""A wait that takes longer than this is reported."""


def title(what: str, setting: str, url: str) -> str:
    """A server's kind, address and setting: `the database at db:5432/qinling (DATABASE_URL)`."""
    return f"{what} at {place(url)} ({setting})"


def waiting(title: str, reason: str) -> str:
    """The line that reports a wait for the server with this title; an empty reason is not known yet."""
    return f"Waiting for {title}: {reason or 'no answer yet'}."


def in_one_line(error: Exception) -> str:
    """Why a server does not serve, without secrets."""
    if isinstance(error, ValueError):  # its text quotes the URL, perhaps with a part of the password
        return "the URL can't be parsed; special characters in a password have to be percent-encoded"
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith(("HELLO must be called", "NOAUTH")):
        return "the server needs a password in REDIS_URL, as in redis://:PASSWORD@HOST:PORT/0"
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def place(url: str) -> str:
    """The address in a URL, without user and password; `?` if it can't be separated from them."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "?"
    if "@" in parts.path + parts.query + parts.fragment:  # the password contains an unescaped `/`, `?` or `#`
        return "?"
    if parts.scheme == "unix":
        return parts.path or "?"
    if not host:
        return "?"
    return f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
