"""The engine of SQLite."""

from __future__ import annotations

import os
import secrets
import sqlite3
from typing import Any
from urllib.parse import quote

import peewee

from qinling_falcon.models.engines.base import SHARDS, ConnectionsMixin, Fate, origin_of
from qinling_falcon.models.engines.sqlite_triggers import STATEMENTS as _TRIGGERS
from qinling_falcon.models.keyed_rows import STATEMENTS as _KEYED_ROWS
from qinling_falcon.models.readers import Readers
from qinling_falcon.settings import Settings, SettingsError

# peewee's type stubs lack the protected attributes that its database classes offer to subclasses.
_SqliteDatabase: Any = peewee.SqliteDatabase


class _SqliteConnection(sqlite3.Connection):
    """A connection that remembers its file, so that it is not used after the file was moved away or replaced."""

    file: tuple[int, int] | None = None


class Sqlite(ConnectionsMixin, _SqliteDatabase):  # type: ignore[misc]  # the base is Any: see above
    """SQLite in WAL mode. Reading connections are read-only."""

    begin_sql = "BEGIN IMMEDIATE"
    complete_statements = True
    position_function = "instr"
    _lost = frozenset(
        (
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_NOMEM,
        )
    )

    def __init__(self, path: str, settings: Settings) -> None:
        if sqlite3.sqlite_version_info < (3, 35):
            raise SettingsError(f"DATABASE_URL: SQLite {sqlite3.sqlite_version} is too old: expected 3.35 or newer")
        self.path = path
        # mode=rw: a database that is missing is an error, not an empty new file.
        super().__init__(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            check_same_thread=False,
            factory=_SqliteConnection,
            # In WAL mode reads wait for no lock, except briefly after a crash. Waiting would block the gevent hub.
            timeout=0.05,
            autoconnect=False,
            pragmas={"query_only": 1, "cache_size": -512},
        )
        self.shard = secrets.randbelow(SHARDS)
        self._readers = Readers(
            self._connect,
            lambda connection: not connection.in_transaction and connection.file == self._file(),
            size=settings.database_pool_size,
            timeout_s=settings.database_timeout_s,
        )

    def _connect(self) -> Any:
        connection = super()._connect()
        connection.file = self._file()
        return connection

    def _file(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116 - runs before each transaction; pathlib takes ten times as long
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def open_writer(self) -> None:
        """Connect this thread for writing: durable commits, no waiting inside SQLite."""
        connection = sqlite3.connect(
            self.database,
            uri=True,
            timeout=0,
            isolation_level=None,
            cached_statements=512,
            check_same_thread=False,
            factory=_SqliteConnection,
        )
        connection.file = self._file()
        try:
            connection.execute("PRAGMA journal_mode=wal")
            connection.execute("PRAGMA synchronous=full")
            connection.execute("PRAGMA foreign_keys=1")
            connection.execute("PRAGMA journal_size_limit=67108864")
            # Fewer checkpoints: pages that many commits touch are written back once.
            connection.execute("PRAGMA wal_autocheckpoint=8000")
            for statement in (*_TRIGGERS, *_KEYED_ROWS):
                connection.execute(statement.replace("{shard}", str(self.shard)))
        except BaseException:
            connection.close()
            raise
        self._state.set_connection(connection)

    def writing(self) -> bool:
        """Whether this thread has a connection for writing."""
        return not self.is_closed() and self._state.conn.file == self._file()

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""
        origin = origin_of(error)
        code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Fate.BUSY
        # Some errors end the whole transaction, without saying so.
        ended = self.transaction_depth() > 0 and not (self.writing() and self._state.conn.in_transaction)
        return Fate.LOST if ended or code in self._lost else Fate.OWN

    def octets(self, text: Any) -> Any:
        """See `Engine`. OCTET_LENGTH needs SQLite 3.43."""
        return peewee.fn.LENGTH(peewee.Cast(text, "BLOB"))
