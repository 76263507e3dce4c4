"""Lists of rows: filtered, sorted, paged by keyset, and never whole in memory.

A page begins after its marker's row in the order of (sort key, creation, id), so
it costs the same wherever it is, and rows that come or go between two pages
neither repeat nor hide others.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import peewee

from qinling_falcon.errors import BadRequest
from qinling_falcon.models.cooperation import pause
from qinling_falcon.models.database import reading
from qinling_falcon.models.filters import Kind, among, choices, condition
from qinling_falcon.models.order import Order, Part
from qinling_falcon.models.tables import Row

R = TypeVar("R", bound=Row)

# More parts than that cost more to merge than they save.
_MOST_PARTS = 60
# Text up to so many characters is read with its row: two of them in each row of a chunk are 16 MB.
_LARGE = 8192
# After so many rows others have a turn: who takes a long list as quickly as it is made must not keep them waiting.
_TURN = 50


@dataclass(frozen=True, slots=True)
class Column:
    """A shown field that lists can be filtered by.

    Attributes:
        values: all that it can hold, where that is a handful.
    """

    field: peewee.Field[Any]
    kind: Kind
    values: frozenset[Any] | None = None


@dataclass(frozen=True, slots=True)
class ListSpec(Generic[R]):
    """What a model's lists can do.

    Attributes:
        model: the rows.
        filters: columns that can be filtered by, by the name that users see.
        sort_keys: columns that can be sorted by, likewise; all have an index.
        merged: names among `filters` of columns that the indexes begin with. A list is merged from a part for each
            value that a filter leaves of them, or else for each that they can hold.
        grouped: for a name in `merged`, the column that comes next in its indexes; which values there are is looked up.
        large: columns that can hold a megabyte; what is large is read a row at a time.
        chunk: rows that are held in memory at a time. With 1,000 a complete list of 100,000 executions takes two
            thirds of the time that it takes with 200, and as long as with 5,000, which hold 20 MB more.
    """

    model: type[R]
    filters: Mapping[str, Column]
    sort_keys: Mapping[str, peewee.Field[Any]]
    merged: Sequence[str] = ()
    grouped: Mapping[str, peewee.Field[Any]] = field(default_factory=dict)
    large: Sequence[peewee.Field[Any]] = ()
    chunk: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListParams:
    """What one request asks of a list.

    Attributes:
        limit: rows of the page; None: all there are.
        marker: id of the last row of the page before.
        sort_key: a name among the spec's.
        sort_dir: `asc` or `desc`.
        filters: (name, `operator:value`) pairs; all must hold.
    """

    limit: int | None
    marker: str | None = None
    sort_key: str = "created_at"
    sort_dir: str = "asc"
    filters: Sequence[tuple[str, str]] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """One page.

    Attributes:
        rows: read while they are taken, a chunk at a time, from any greenlet; once.
        next_marker: the marker of the next page, None on the last one.
    """

    rows: Iterator[R]
    next_marker: str | None


def page(select: peewee.ModelSelect[R], spec: ListSpec[R], params: ListParams) -> Page[R]:
    """One page of the rows that `select` (from `scope`) gives.

    Raises:
        BadRequest: an unknown filter, sort key or marker, or a value that doesn't fit; the message names it.
    """
    if params.limit is not None and params.limit < 1:
        raise _bad("limit", "expected a number from 1 on")
    if params.sort_key not in spec.sort_keys:
        raise _bad("sort_key", f"expected one of {', '.join(sorted(spec.sort_keys))}")
    if params.sort_dir not in ("asc", "desc"):
        raise _bad("sort_dir", "expected asc or desc")
    order = Order(spec.model, spec.sort_keys[params.sort_key], descending=params.sort_dir == "desc")
    with reading():
        reader = _Reader(select, spec, order, _parts(select, spec, params.filters))
        after = _marker_row(select, order, params.marker)
        wanted = spec.chunk if params.limit is None or params.limit > spec.chunk else params.limit + 1
        first = reader.take(after, wanted)
        complete = len(first) < wanted
        next_marker = None
        if params.limit is not None and not complete:
            next_marker = reader.last_of_page(first, after, params.limit)
    return Page(reader.rows(first, params.limit, complete=complete), next_marker)


class _Reader(Generic[R]):
    """Reads the rows of a list, a chunk at a time."""

    def __init__(
        self,
        select: peewee.ModelSelect[R],
        spec: ListSpec[R],
        order: Order[R],
        parts: Sequence[Part[R]],
    ) -> None:
        self._select = select
        self._without_large = _without_large(select, spec.large)
        self._order = order
        self._parts = parts
        self._size = spec.chunk

    def take(self, after: R | None, count: int) -> list[R]:
        """The next rows after `after`, without their large texts."""
        return list(_in_turns(self._order.take(self._without_large, self._parts, after, count)))

    def last_of_page(self, first: list[R], after: R | None, limit: int) -> str | None:
        """The id of the last row of a page that begins with `first`, unless no more follow."""
        if limit < len(first):
            return first[limit - 1].id
        return self._order.last_of_page(self._parts, after, limit)

    def rows(self, chunk: list[R], limit: int | None, *, complete: bool) -> Iterator[R]:
        """The rows of the page, of which `chunk` is the first part."""
        left = limit
        while True:
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            for row in _in_turns(chunk):
                whole = self._whole(row)
                if whole is not None:
                    yield whole
            if complete or left == 0:
                return
            with reading():
                chunk = self.take(chunk[-1], self._size)
            complete = len(chunk) < self._size

    def _whole(self, row: R) -> R | None:
        if not getattr(row, "is_large", False):
            return row
        with reading():
            return self._select.where(self._order.model.id == row.id).get_or_none()


def _in_turns(rows: Iterable[R]) -> Iterator[R]:
    for place, row in enumerate(rows, 1):
        yield row
        if place % _TURN == 0:
            pause()


def _without_large(select: peewee.ModelSelect[R], large: Sequence[peewee.Field[Any]]) -> peewee.ModelSelect[R]:
    """`select` with NULL for texts that are large, and a column that tells whether there are any."""
    if not large:
        return select
    is_large = [peewee.fn.LENGTH(column) > _LARGE for column in large]
    columns = [column for column in select.selected_columns if column not in set(large)]
    columns += [
        peewee.Case(None, [(~condition, column)]).alias(column.name)
        for column, condition in zip(large, is_large, strict=True)
    ]
    any_large = functools.reduce(operator.or_, is_large)
    return select.select(*columns, any_large.alias("is_large"))


def _marker_row(select: peewee.ModelSelect[R], order: Order[R], marker: str | None) -> R | None:
    if marker is None:
        return None
    row = None
    if "\0" not in marker and marker.isascii():
        row = select.select(*order.keys).where(order.model.id == marker).get_or_none()
    if row is None:
        raise _bad("marker", f"no row '{marker[:80]}'")
    return row


def _parts(select: peewee.ModelSelect[R], spec: ListSpec[R], filters: Sequence[tuple[str, str]]) -> list[Part[R]]:
    """The rows that pass all filters, in parts that an index has in order each; no parts: no row can pass."""
    unknown = [name for name, _ in filters if name not in spec.filters]
    if unknown:
        message = f"Unknown filter: {', '.join(sorted(unknown))}. Known are {', '.join(sorted(spec.filters))}."
        raise BadRequest(message, errors={name: ["unknown filter"] for name in unknown})
    left = {name: spec.filters[name].values for name in spec.merged}
    conditions = []
    for name, text in filters:
        column = spec.filters[name]
        chosen = None
        if name in left and not (column.kind is Kind.TIME and left[name] is not None):
            chosen = choices(name, column.kind, text, left[name])
        if chosen is None:
            conditions.append(condition(name, column.field, column.kind, text))
        else:
            left[name] = chosen
    parts = [Part(select)]
    for name, values in left.items():
        if values is not None:
            parts = _divided(parts, spec.filters[name], values, spec.grouped.get(name))
    return [functools.reduce(Part.where, conditions, part) for part in parts]


def _divided(
    parts: list[Part[R]], column: Column, values: frozenset[Any], group: peewee.Field[Any] | None
) -> list[Part[R]]:
    """The parts of `parts` for each of `values`."""
    if len(parts) * len(values) > _MOST_PARTS:
        return [part.where(among(column.field, column.kind, values)) for part in parts]
    if column.kind is Kind.TIME:
        return [part.where_within(column.field, *span) for part in parts for span in values]
    divided = [part.where_is(column.field, value) for part in parts for value in values]
    if group is None:
        return divided
    return [part.where_is(group, value) for part in divided for value in _distinct(part, group)]


def _distinct(part: Part[R], column: peewee.Field[Any]) -> Iterator[Any]:
    """The values that there are in a column, each found by one look into an index: they are few, the rows many."""
    select = part.select.select(column).order_by(column)
    row = select.first()
    while row is not None:
        value = getattr(row, column.name)
        yield value
        row = select.where(column > value).first()


def _bad(name: str, message: str) -> BadRequest:
    return BadRequest(f"'{name}': {message}.", errors={name: [message]})
