"""The engine of PostgreSQL, with psycopg2 as the driver."""

from __future__ import annotations

import contextlib
import secrets
import select
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import psycopg2
import psycopg2.errors
import psycopg2.extensions

from qinling_falcon.models.cooperation import cooperative, native
from qinling_falcon.models.engines.base import SHARDS, ConnectionsMixin, Fate, origin_of
from qinling_falcon.models.readers import Readers, close_quietly
from qinling_falcon.settings import Settings, SettingsError

# peewee's type stubs lack the protected attributes that its database classes offer to subclasses.
_PostgresqlDatabase: Any = peewee.PostgresqlDatabase


class Postgres(ConnectionsMixin, _PostgresqlDatabase):  # type: ignore[misc]  # the base is Any: see above
    """PostgreSQL with psycopg2. Reading connections are read-only."""

    begin_sql = "BEGIN"
    complete_statements = False
    position_function = "strpos"

    def __init__(self, url: str, settings: Settings) -> None:
        try:
            params = psycopg2.extensions.parse_dsn(url)
        except psycopg2.ProgrammingError as error:
            why = str(error).split('"')[0].strip(" \n:")  # the quoted part may be a password
            raise SettingsError(f"DATABASE_URL: expected a PostgreSQL URL: {why}") from None
        timeout_ms = int(settings.database_timeout_s * 1000)
        self._timeout_s = settings.database_timeout_s
        name = params.pop("dbname", None) or params.get("user") or "postgres"
        defaults = {
            "application_name": "qinling-falcon",
            "connect_timeout": max(2, int(settings.database_timeout_s)),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 2 * timeout_ms,
        }
        super().__init__(
            name,
            autoconnect=False,
            **(defaults | params),
        )
        self.shard = secrets.randbelow(SHARDS)
        self._readers = Readers(
            self._connect_reader,
            _is_quiet,
            size=settings.database_pool_size,
            timeout_s=settings.database_timeout_s,
        )
        if cooperative():
            _patch_psycopg(max(5.0, 2 * settings.database_timeout_s))

    def _connect_reader(self) -> Any:
        with _at_most(self._timeout_s):
            connection = self._connect()
            try:
                connection.set_session(readonly=True)
            except BaseException:
                close_quietly(connection)
                raise
        return connection

    def _connect(self) -> Any:
        connection = super()._connect()
        if self.server_version is None:
            self._set_server_version(connection)
        return connection

    def open_writer(self) -> None:
        """Connect this thread (or greenlet) for writing.

        The server ends its transaction if the process hangs in it for twice the timeout.
        """
        connection = self._connect()
        try:
            with connection.cursor() as cursor:
                ms = int(self._timeout_s * 1000)
                cursor.execute(f"SET lock_timeout = {ms}; SET idle_in_transaction_session_timeout = {2 * ms}")
        except BaseException:
            connection.close()
            raise
        self._state.set_connection(connection)

    def writing(self) -> bool:
        """Whether this thread (or greenlet) has a connection for writing."""
        return not self.is_closed() and not self._state.conn.closed

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""
        origin = origin_of(error)
        if not self.writing() or isinstance(origin, psycopg2.InterfaceError):
            return Fate.LOST
        code: str = getattr(origin, "pgcode", None) or ""
        if code in ("40001", "40P01", "55P03"):
            return Fate.TRANSIENT
        # Written through the writer and still refused: a standby, after a failover.
        standby = code == "25006" and self.transaction_depth() > 0
        # 53…: out of disk, memory or connections; 57P…, 58…, XX…: going down, or broken.
        return Fate.LOST if standby or code.startswith(("08", "53", "57P", "58", "XX")) else Fate.OWN

    def octets(self, text: Any) -> Any:
        """See `Engine`. Unlike LENGTH, OCTET_LENGTH does not read texts that are stored out of line."""
        return peewee.fn.OCTET_LENGTH(text)


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Limit the time of the `with` block, where gevent can interrupt it. Elsewhere the driver's timeouts apply."""
    if not cooperative():
        yield
        return
    import gevent

    with gevent.Timeout(seconds, TimeoutError("the database did not answer in time")):
        yield


def _is_quiet(connection: Any) -> bool:
    """Whether an idle connection is usable: no statement is running, and the server has sent nothing unread.

    A server that has closed the connection, or has stopped, has sent something. The check needs no round trip.
    """
    if connection.closed or connection.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
        return False
    poll = native("select", "poll")()  # gevent's version would switch greenlets
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _patch_psycopg(silence_s: float) -> None:
    """Let psycopg2 wait cooperatively, and give up a connection that has been silent for too long."""
    from psycogreen.gevent import gevent_wait_callback, patch_psycopg

    patch_psycopg()

    def wait(connection: Any) -> None:
        gevent_wait_callback(connection, timeout=silence_s)

    wait_callback: Callable[[Any], None] = wait
    psycopg2.extensions.set_wait_callback(wait_callback)
