"""What a database engine offers to reads and to the writer, and what the engines share.

`choice.py` makes the engine of `DATABASE_URL`: that of `sqlite.py` or that of `postgres.py`. All models use one peewee
database. A read sets one of the `Readers`' connections on it for its greenlet; the writer (`writer.py`) sets a
connection of its own.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from qinling_falcon.models.readers import Readers, close_quietly

# The number of rows of the table `execution_counters`; see the module `execution_counters`.
SHARDS = 16


class Fate(Enum):
    """What an exception inside a transaction says about it."""

    OWN = "own"  # the statement's own fault: its savepoint goes, the rest stays
    TRANSIENT = "transient"  # a deadlock or the like: the same again may well succeed
    BUSY = "busy"  # another process is writing: try again at once
    LOST = "lost"  # the connection, or what it leads to, can't be used any more


class Engine(Protocol):
    """A peewee database with the operations that reads and the writer need."""

    begin_sql: str
    # A group's statements are complete in themselves (triggers do what follows from them, and a statement that fails
    # changes nothing), so that a group needs no transaction around it.
    complete_statements: bool
    position_function: str  # position_function(text, part): where part begins in text, 0: nowhere
    shard: int  # the row of `execution_counters` that this process changes

    def open_reader(self) -> None:
        """Give this thread (or greenlet) a reading connection. Raises `TooManyReads` or the driver's errors."""

    def close_reader(self) -> None:
        """Take the connection back. This never waits, so a greenlet can't be killed inside it."""

    def open_writer(self) -> None:
        """Connect this thread (or greenlet) for writing."""

    def close_writer(self) -> None:
        """Drop this thread's (or greenlet's) connection, whatever its state."""

    def close_readers(self) -> None:
        """Close the idle reading connections."""

    def writing(self) -> bool:
        """Whether this thread (or greenlet) has a connection for writing."""

    def fate(self, error: BaseException) -> Fate:
        """What `error` means for the transaction that it was raised in."""

    def octets(self, text: Any) -> Any:
        """An SQL expression for the length of a text in bytes."""

    def __getattr__(self, name: str) -> Any: ...


class ConnectionsMixin:
    """A mixin for peewee databases: gives each greenlet a connection from `Readers`, and drops the writer's connection.
    """

    _state: Any
    _readers: Readers

    def open_reader(self) -> None:
        """Give this thread (or greenlet) one of the reading connections."""
        self._state.set_connection(self._readers.take())

    def close_reader(self) -> None:
        """Take the connection back."""
        connection, _ = self._state.conn, self._state.reset()
        if connection is not None:
            self._readers.give_back(connection)

    def close_writer(self) -> None:
        """Drop this thread's (or greenlet's) connection."""
        connection, _ = self._state.conn, self._state.reset()
        if connection is not None:
            close_quietly(connection)

    def close_readers(self) -> None:
        """Close the idle reading connections."""
        self._readers.close_idle()


def origin_of(error: BaseException) -> BaseException:
    """The driver's exception inside peewee's."""
    origin: BaseException = getattr(error, "orig", error)
    return origin
