"""Waits for an external Redis and database before `make run` starts the processes that need them."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence

from qinling_falcon.servers import CONNECT_TIMEOUT_S, SAY_AFTER_S, in_one_line, title, waiting
from qinling_falcon.settings import Settings
from workers.run.errors import StartError, Stopped
from workers.run.signals import StopSignals

logger = logging.getLogger(__name__)

_SAY_AGAIN_S = 30.0
_RETRY_S = 0.5


class Neighbour:
    """An external server that the service needs. A thread probes it until it answers.

    Attributes:
        title: the server's kind, address and setting, without secrets.
        reason: why the server does not serve, in one line; empty until known.
        answered: set when the server serves.

    Args:
        what: "Redis" or "the database".
        setting: the environment variable with its URL.
        url: the value of that variable.
        probe: asks the server; raises if it does not serve.
    """

    def __init__(self, what: str, setting: str, url: str, probe: Callable[[], None]):
        self._probe = probe
        self.title = title(what, setting, url)
        self.reason = ""
        self.answered = threading.Event()
        # A daemon thread, because name lookups and drivers can't be interrupted, and Ctrl-C must not wait for them.
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
    """The external servers of `REDIS_URL` and `DATABASE_URL`. The servers that `make run` starts are not included.

    Raises:
        SettingsError: `DATABASE_URL` can't be read.
    """
    from qinling_falcon.models.engines.choice import make_engine  # a quarter of a second

    found = []
    if settings.redis_url:
        found.append(Neighbour("Redis", "REDIS_URL", settings.redis_url, lambda: _ask_redis(settings)))
    if settings.database_url and not settings.database_url.startswith("sqlite:"):
        url = settings.database_url
        make_engine(settings)  # fails at once if the URL is malformed
        found.append(Neighbour("the database", "DATABASE_URL", url, lambda: _ask_postgres(url)))
    return found


def wait_for(awaited: Sequence[Neighbour], signals: StopSignals, timeout_s: float) -> None:
    """Wait until all servers answer. Print the servers that are missing after a second, then at long intervals.

    Raises:
        Stopped: a stop signal arrived.
        StartError: a server did not answer within `timeout_s`.
    """
    since = time.monotonic()
    say_at = since + SAY_AFTER_S
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
                logger.warning(what, extra={"reason": neighbour.reason or "no answer yet"})
                print(waiting(neighbour.title, neighbour.reason), file=sys.stderr, flush=True)
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

    psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT_S).close()
