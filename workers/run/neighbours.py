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
        self.title = f"{what} at {place(url)} ({setting})"
        self.reason = ""
        self.answered = threading.Event()
        # A daemon: name lookups and drivers can't be interrupted, and Ctrl-C waits for none of them.
        threading.Thread(target=self._ask_on, daemon=True).start()

    def _ask_on(self) -> None:
        while True:
            try:
                self._probe()
            except Exception as error:
                self.reason = in_one_line(error)
                time.sleep(_RETRY_S)
            else:
                self.answered.set()
                return


def neighbours(settings: Settings) -> list[Neighbour]:
    """The servers that `REDIS_URL` and `DATABASE_URL` name; those that `make run` brings along need no waiting for.

    Raises:
        SettingsError: `DATABASE_URL` can't be read.
    """
    from qinling_falcon.models.engines import make_engine  # a quarter of a second

    found = []
    if settings.redis_url:
        found.append(Neighbour("Redis", "REDIS_URL", settings.redis_url, lambda: _ask_redis(settings)))
    if settings.database_url and not settings.database_url.startswith("sqlite:"):
        url = settings.database_url
        make_engine(settings)  # a URL that can't be read is no reason to wait
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


def in_one_line(error: Exception) -> str:
    """Why a server does not serve, without secrets."""
    if isinstance(error, ValueError):  # it quotes the URL, maybe amid the password
        return "the URL can't be read; special characters of a password have to be percent-encoded"
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def place(url: str) -> str:
    """Where a URL leads, without user and password; `?` when it can't be told apart from them."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "?"
    if "@" in parts.path + parts.query + parts.fragment:  # the password has a `/`, `?` or `#`
        return "?"
    if parts.scheme == "unix":
        return parts.path or "?"
    if not host:
        return "?"
    return f"{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
