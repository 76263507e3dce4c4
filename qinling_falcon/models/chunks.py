"""Reads the rows of a list in chunks, for `listing.Page`, and keeps no rows between chunks.

A client may read a chunk slowly, so chunks are limited in bytes as well as in rows.
A chunk is read in two steps:

1. A query returns rows without their long texts, but with the bytes of these. Each
   row without long texts is rendered while the cursor moves on.
2. One more query reads the rows with long texts that fit into the chunk.

Between two chunks the reader holds the last row as a marker, and no connection.
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

# The most bytes of rendered rows and long texts in a chunk. A single row may have more.
CHUNK_SIZE = 1024 * 1024
# Longer texts, in bytes, are read in step 2. Nearly all texts are shorter. A larger value would let the 1,000 rows of a
# query take too much memory.
_SHORT = 2048
# A query asks for at least this many rows, even if the rows of the previous chunk were large.
_FEWEST = 16
# Held while long texts are read, so that a process renders one such row at a time: a row with the largest input and
# result takes up to 30 MiB.
_reading_long = threading.Lock()
# The reader lets other greenlets run after this many rows. For long texts, this many bytes count as one more row.
_TURN = 25
_BYTES_OF_A_ROW = 8192


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T]):
    """Some rendered rows of a list.

    Attributes:
        items: the rendered rows, in order.
        last: whether this is the last chunk of the page.
    """

    items: list[T]
    last: bool


class ChunkReader(Generic[R]):
    """Reads one page of a list.

    Args:
        select: a query for the rows, with all columns that are shown.
        order: the order of the rows.
        parts: the rows that pass the filters.
        after: the last row of the previous page; None: this is the first page.
        limit: the most rows of the page; None: all rows.
        most: the most rows of a chunk.

    Attributes:
        last_row: the last row that was read, without its long texts.
        followed: whether more rows follow the page; None: not known yet.
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
            render: converts a row to an item; it must not wait for anything.
            size: returns the bytes of an item.

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
            The items (None for rows with long texts), the index and the bytes of each of those rows by id, and
            whether the page ends with this chunk.
        """
        left = self._left
        # The last query of a page asks for one more row, to find out whether rows follow.
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
                turn.count(0)  # without the long texts, because SQLite would hold the row's while other greenlets run
                if taken >= CHUNK_SIZE:
                    full = True
                    break
            else:
                if len(items) < asked:
                    self.followed = False
        if left is not None:
            self._left = left - len(items)
        # The number of rows in this chunk is the estimate for the next query.
        self._count = max(_FEWEST, len(items)) if full else min(self._most, 2 * self._count)
        return items, long, self.followed is not None or self._left == 0

    def _read_long(
        self, items: list[T | None], long: dict[str, tuple[int, int]], render: Callable[[R], T]
    ) -> None:
        """Render the rows with long texts. The item of a row that was deleted meanwhile stays None."""
        turn = _Turn()
        for row in self._select.where(self._order.model.id.in_(list(long))).iterator():
            place, octets = long[row.id]
            items[place] = render(row)
            turn.count(octets)


class _Turn:
    """Lets other greenlets run at intervals."""

    def __init__(self) -> None:
        self._done = 0

    def count(self, size: int) -> None:
        """Count a row with `size` bytes of long texts, and pause if the interval is over."""
        self._done += 1 + size // _BYTES_OF_A_ROW
        if self._done >= _TURN:
            self._done = 0
            pause()


def _with_short_texts(select: peewee.ModelSelect[R]) -> peewee.ModelSelect[R]:
    """`select` with NULL in place of long texts, and a column `long_texts` with the sum of their bytes.

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
