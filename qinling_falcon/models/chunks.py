"""Reads the rows of a list in chunks, and keeps no row from one chunk to the next.

A client may take a chunk slowly, so a chunk is bounded by size as well as by
rows. `Page` (`listing`) reads chunks here; each row is rendered while the
cursor moves on. Rows come without their long texts, but with the length of
these. The long texts of the rows that fit into the chunk are then read by one
query. Between two chunks the reader holds the last row, as a marker, and no
connection.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import peewee

from qinling_falcon.models.cooperation import pause
from qinling_falcon.models.database import engine, reading
from qinling_falcon.models.order import Order, Part
from qinling_falcon.models.tables import Row

R = TypeVar("R", bound=Row)
T = TypeVar("T")

# Bytes of rendered rows and of long texts in a chunk. A single row may have more.
CHUNK_SIZE = 1024 * 1024
# Texts up to so many bytes come with their row, as nearly all do. A query gives up to 1,000 rows, so it is not more.
_SHORT = 2048
# The least number of rows that a query asks for, whatever their size was in the chunk before.
_FEWEST = 16
# One reader of a process reads long texts at a time: a row with the largest input and result takes up to 30 MiB
# while it is rendered.
_reading_long = threading.Lock()
# Other greenlets get a turn after so many rows, or after so many bytes that count as one row.
_TURN = 25
_BYTES_OF_A_ROW = 8192


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T]):
    """Some rows of a list, rendered.

    Attributes:
        items: the rendered rows, in order.
        last: whether the page ends here.
    """

    items: list[T]
    last: bool


class ChunkReader(Generic[R]):
    """Reads one page of a list.

    Args:
        select: the rows with all columns that are shown.
        order: their order.
        parts: the rows that pass the filters.
        after: the row before the page; None: the page is the first.
        limit: rows of the page; None: all there are.
        most: rows of a chunk.

    Attributes:
        last_row: the row that was read last, without its long texts.
        followed: whether rows follow the page; None: not known (yet).
    """

    def __init__(
        self,
        select: peewee.ModelSelect[R],
        order: Order[R],
        parts: Sequence[Part[R]],
        after: R | None,
        limit: int | None,
        most: int,
    ) -> None:
        self.last_row = after
        self.followed: bool | None = None
        self._select = select
        self._order = order
        self._parts = parts
        self._left = limit
        self._most = most
        self._count = most
        self._short: peewee.ModelSelect[R] | None = None

    def read(self, render: Callable[[R], T], size: Callable[[T], int]) -> Chunk[T]:
        """Read the next chunk.

        Args:
            render: makes an item of a row; it must not wait for anything.
            size: the bytes of an item.

        Raises:
            Unavailable: see `reading`.
        """
        with reading():
            if self._short is None:
                self._short = _with_short_texts(self._select)
            items, long, ended = self._read_rows(self._short, render, size)
        if long:
            with _reading_long, reading():
                self._read_long(items, long, render)
        return Chunk([item for item in items if item is not None], ended)

    def _read_rows(
        self, select: peewee.ModelSelect[R], render: Callable[[R], T], size: Callable[[T], int]
    ) -> tuple[list[T | None], dict[str, tuple[int, int]], bool]:
        """Read rows until the chunk is full.

        Returns:
            The items, None for rows with long texts; places and bytes of these by id; whether the page ends here.
        """
        left = self._left
        # A page's last query asks for one row more, to know whether any follow.
        asked = self._count if left is None or left > self._count else left + 1
        items: list[T | None] = []
        long: dict[str, tuple[int, int]] = {}
        taken = 0
        turn = _Turn()
        full = False
        with contextlib.closing(self._order.take(select, self._parts, self.last_row, asked)) as rows:
            for row in rows:
                if len(items) == left:
                    self.followed = True
                    break
                long_texts: int = getattr(row, "long_texts", 0)
                if items and taken + long_texts > CHUNK_SIZE:
                    full = True
                    break
                if long_texts:
                    long[row.id] = (len(items), long_texts)
                    items.append(None)
                    taken += long_texts
                else:
                    item = render(row)
                    items.append(item)
                    taken += size(item)
                self.last_row = row
                turn.count(0)  # not the long texts: SQLite holds those of the row while others have their turn
                if taken >= CHUNK_SIZE:
                    full = True
                    break
            else:
                if len(items) < asked:
                    self.followed = False
        if left is not None:
            self._left = left - len(items)
        # What one chunk could hold says how many rows are worth asking for in the next one.
        self._count = max(_FEWEST, len(items)) if full else min(self._most, 2 * self._count)
        return items, long, self.followed is not None or self._left == 0

    def _read_long(
        self, items: list[T | None], long: dict[str, tuple[int, int]], render: Callable[[R], T]
    ) -> None:
        """Render the rows that have long texts. A row that was deleted meanwhile stays None."""
        turn = _Turn()
        for row in self._select.where(self._order.model.id.in_(list(long))).iterator():
            place, octets = long[row.id]
            items[place] = render(row)
            turn.count(octets)


class _Turn:
    """Lets other greenlets have a turn now and then."""

    def __init__(self) -> None:
        self._done = 0

    def count(self, size: int) -> None:
        """Count a row with so many bytes of long texts."""
        self._done += 1 + size // _BYTES_OF_A_ROW
        if self._done >= _TURN:
            self._done = 0
            pause()


def _with_short_texts(select: peewee.ModelSelect[R]) -> peewee.ModelSelect[R]:
    """`select` with NULL for long texts, and a column `long_texts`: the bytes of these, together.

    Only columns without a maximum length (`TextField`) can hold long texts.
    """
    texts = {column for column in select.selected_columns if isinstance(column, peewee.TextField)}
    if not texts:
        return select
    columns: list[Any] = []
    long_texts = []
    for column in select.selected_columns:
        if column in texts:
            octets = engine().octets(column)
            columns.append(peewee.Case(None, [(octets <= _SHORT, column)]).alias(column.name))
            long_texts.append(peewee.Case(None, [(octets > _SHORT, octets)], 0))
        else:
            columns.append(column)
    return select.select(*columns, functools.reduce(operator.add, long_texts).alias("long_texts"))
