"""The order of a list (by a key, then by creation, then by id), and queries for the next rows in this order."""

from __future__ import annotations

import functools
import operator
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import peewee

from qinling_falcon.models.tables import Row

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Part(Generic[R]):
    """Some of a list's rows, which an index has in the list's order.

    Attributes:
        select: the rows, from `scope`, filtered.
        spans: the least and the greatest value that columns have in them, by name; none is null.
    """

    select: peewee.ModelSelect[R]
    spans: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def where(self, condition: peewee.Expression) -> Part[R]:
        """Those of the rows for which `condition` holds."""
        return Part(self.select.where(condition), self.spans)

    def where_is(self, column: peewee.Field[Any], value: Any) -> Part[R]:
        """Those of the rows that have `value` there."""
        return Part(self.select.where(column == value), {**self.spans, column.name: (value, value)})

    def where_within(self, column: peewee.Field[Any], first: Any, last: Any) -> Part[R]:
        """Those of the rows that have a value from `first` to `last` there."""
        return Part(self.select.where(column.between(first, last)), {**self.spans, column.name: (first, last)})


class Order(Generic[R]):
    """Sorts rows by `key`; rows without a key come first.

    The rows are divided into parts without common rows. The database reads the first rows of each part from an index,
    at most as many as are wanted in all, and merges them.

    Args:
        model: the model of the rows.
        key: the first sort column.
        descending: whether the order is reversed.
    """

    def __init__(self, model: type[R], key: peewee.Field[Any], *, descending: bool) -> None:
        self.model = model
        self.is_of_creation = key.name == "created_at"
        self.keys = [key] if self.is_of_creation else [key, model.created_at]
        self.keys.append(model.id)
        self._descending = descending

    def take(
        self, select: peewee.ModelSelect[R], parts: Sequence[Part[R]], after: R | None, count: int
    ) -> Generator[R]:
        """Yield the first `count` rows after `after`, from all parts, with the columns of `select`.

        The generator holds a cursor until it ends or is closed.
        """
        following = self._following(parts, after)
        if not following:
            return
        if len(following) == 1:
            query = self._sorted(following[0]).select(*select.selected_columns).limit(count)
        else:
            # Passed as text, because peewee would generate the SQL twice.
            sql, params = self._merged(following, count).sql()
            query = self._sorted(select.where(self.model.id.in_(peewee.SQL(f"({sql})", params))))
        found = query.execute()
        try:
            yield from found.iterator()
        finally:
            # An open SQLite cursor would keep its connection's snapshot.
            found.cursor.close()

    def last_of_page(self, parts: Sequence[Part[R]], after: R | None, limit: int) -> str | None:
        """The id of the row that is the last of a page, unless no more follow."""
        following = self._following(parts, after)
        ids: Any
        if len(following) == 1:
            ids = self._sorted(following[0]).select(self.model.id)
        else:
            ids = self._merged(following, limit + 1)
        found: list[tuple[str]] = list(ids.limit(2).offset(limit - 1).tuples())
        return found[0][0] if len(found) == 2 else None

    def _merged(self, selects: Sequence[peewee.ModelSelect[R]], count: int) -> Any:
        """A query of the ids of the first `count` rows of all."""
        firsts = [self._sorted(select.select(*self.keys)).limit(count).alias("part") for select in selects]
        # One more SELECT around each: SQLite knows no order within a UNION.
        wrapped: list[Any] = [first.select_from(peewee.SQL("*")) for first in firsts]
        union = functools.reduce(operator.add, wrapped).alias("merged")
        order = [self._ordering(getattr(union.c, key.column_name), nulls=key.null) for key in self.keys]
        return union.select_from(union.c.id).order_by(*order).limit(count)

    def _sorted(self, select: peewee.ModelSelect[R]) -> peewee.ModelSelect[R]:
        return select.order_by(*(self._ordering(key, nulls=key.null) for key in self.keys))

    def _ordering(self, column: Any, *, nulls: bool) -> Any:
        # Left alone, databases put NULLs at different ends.
        if self._descending:
            return column.desc(nulls="last") if nulls else column.desc()
        return column.asc(nulls="first") if nulls else column.asc()

    def _following(self, parts: Sequence[Part[R]], after: R | None) -> list[peewee.ModelSelect[R]]:
        """What comes after `after`, each a range of an index."""
        if after is None:
            return [part.select for part in parts]
        return [select for part in parts for select in self._rest(part, after)]

    def _rest(self, part: Part[R], after: R) -> list[peewee.ModelSelect[R]]:
        """What of a part comes after `after`."""
        key, *rest = self.keys
        while key.name in part.spans:
            (first, last), its = part.spans[key.name], getattr(after, key.name)
            if last < its or its < first:
                return [part.select] if (last < its) is self._descending else []
            if first != last:
                break
            key, *rest = rest
        if not key.null:
            return [part.select.where(self._follows(after, [key, *rest]))]
        without = part.select.where(key.is_null())
        if getattr(after, key.name) is None:
            tied = without.where(self._follows(after, rest))
            return [tied] if self._descending else [tied, part.select.where(key.is_null(False))]
        later = part.select.where(self._follows(after, [key, *rest]))
        return [later, without] if self._descending else [later]

    def _follows(self, row: R, keys: Sequence[peewee.Field[Any]]) -> Any:
        mine = peewee.Tuple(*keys)
        # A tuple's values are not converted by the columns that they are compared with.
        its = peewee.Tuple(*(peewee.Value(getattr(row, key.name), converter=key.db_value) for key in keys))
        return mine < its if self._descending else mine > its
