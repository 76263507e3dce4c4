"""Waiting for a Redis and a database of one's own before anything is started that needs them."""

from __future__ import annotations

import logging
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence

from qinling_falcon.settings import Settings
from workers.run.errors import StartError, Stopped
from workers.run.signals import StopSignals

logger = logging.getLogger(__name__)

_SAY_AFTER_S = 1.0
_SAY_AGAIN_S = 30.0
_RETRY_S = 0.5
_CONNECT_S = 2


class Neighbour:
    """A server that the service needs, asked again and again in a thread of its own until it answers.

    Attributes:
        title: what it is, where, and by which setting, without secrets.
        reason: why it does not serve, in one line; empty until that is known.
        answered: it serves.

    Args:
        what: "Redis" or "the database".
        setting: the environment variable that says where it is.
        url: its value.
        probe: raises when the server does not serve.
    """

    def __init__(self, what: str, setting: str, url: str, probe: Callable[[], None]):
        self._probe = probe
        self._secrets = _secrets(url)
        self.title = f"{what} at {_place(url)} ({setting})"
        self.reason = ""
        self.answered = threading.Event()
        # A daemon: name lookups and drivers can't be interrupted, and Ctrl-C waits for none of them.
        threading.Thread(target=self._ask_on, daemon=True).start()

    def _ask_on(self) -> None:
        while True:
            try:
                self._probe()
            except Exception as error:
                self.reason = self._line(error)
                time.sleep(_RETRY_S)
            else:
                self.answered.set()
                return

    def _line(self, error: Exception) -> str:
        lines = str(error).strip().splitlines()
        text = lines[0].strip() if lines else type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text.rstrip(".")


def neighbours(settings: Settings) -> list[Neighbour]:
    """The servers that `REDIS_URL` and `DATABASE_URL` name; those that `make run` brings along need no waiting for."""
    found = []
    if settings.redis_url:
        found.append(Neighbour("Redis", "REDIS_URL", settings.redis_url, lambda: _ask_redis(settings)))
    if settings.database_url and not settings.database_url.startswith("sqlite:"):
        url = settings.database_url
        found.append(Neighbour("the database", "DATABASE_URL", url, lambda: _ask_postgres(url)))
    return found


def wait_for(awaited: Sequence[Neighbour], signals: StopSignals, timeout_s: float) -> None:
    """Wait until all answer. What is waited for is said after a second, then seldom.

    Raises:
        Stopped: a signal came first.
        StartError: one did not answer within `timeout_s`.
    """
    since = time.monotonic()
    say_at = since + _SAY_AFTER_S
    said = False
    while left := [neighbour for neighbour in awaited if not neighbour.answered.is_set()]:
        if signals.wait(0.05):
            raise Stopped
        now = time.monotonic()
        if now - since > timeout_s:
            raise StartError(
                f"{left[0].title} did not answer within {timeout_s:g} s: {left[0].reason or 'no answer'}"
            )
        if now >= say_at:
            say_at, said = now + _SAY_AGAIN_S, True
            for neighbour in left:
                what = f"waiting for {neighbour.title}"
                reason = neighbour.reason or "no answer yet"
                logger.warning(what, extra={"reason": reason})
                print(f"{what[0].upper()}{what[1:]}: {reason}.", file=sys.stderr, flush=True)
    if said:
        print("It answers.", file=sys.stderr, flush=True)


def _ask_redis(settings: Settings) -> None:
    from qinling_falcon.jobs.queues import connect  # a tenth of a second

    client = connect(settings)
    try:
        client.ping()
    finally:
        client.close()


def _ask_postgres(url: str) -> None:
    import psycopg2

    psycopg2.connect(url, connect_timeout=_CONNECT_S).close()


def _place(url: str) -> str:
    """Where a URL leads, without user and password."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "?"
    if parts.scheme == "unix" or not host:
        return parts.path or "?"
    return f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _secrets(url: str) -> list[str]:
    """Texts of a URL that are for nobody to see: passwords, as written and as meant."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return []
    written = [parts.password or ""] + [
        value for name, value in urllib.parse.parse_qsl(parts.query) if name.endswith("password")
    ]
    return [text for password in written for text in {password, urllib.parse.unquote(password)} if text]
