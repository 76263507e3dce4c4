"""Lists of rows: filtered, sorted, paged by keyset, and never whole in memory.

A page begins after its marker's row in the order of (sort key, creation, id), so
it costs the same wherever it is, and rows that come or go between two pages
neither repeat nor hide others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import peewee

from qinling_falcon.errors import BadRequest
from qinling_falcon.models.database import reading
from qinling_falcon.models.filters import Kind, condition
from qinling_falcon.models.tables import Row

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Column:
    """A shown field that lists can be filtered by."""

    field: peewee.Field[Any]
    kind: Kind


@dataclass(frozen=True, slots=True)
class ListSpec(Generic[R]):
    """What a model's lists can do.

    Attributes:
        model: the rows.
        filters: columns that can be filtered by, by the name that users see.
        sort_keys: columns that can be sorted by, likewise; all have an index.
        chunk: rows that are held in memory at a time.
    """

    model: type[R]
    filters: Mapping[str, Column]
    sort_keys: Mapping[str, peewee.Field[Any]]
    chunk: int = 200


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
    order = _Order(spec.model, spec.sort_keys[params.sort_key], descending=params.sort_dir == "desc")
    with reading():
        after = _marker_row(select, spec, params.marker)
        filtered = _filter(select, spec, params.filters)
        wanted = spec.chunk if params.limit is None else min(params.limit + 1, spec.chunk)
        first = order.take(filtered, after, wanted)
        complete = len(first) < wanted
        next_marker = None
        if params.limit is not None and not complete:
            next_marker = order.last_of_page(filtered, after, params.limit)
    rows = _rows(order, filtered, first, spec.chunk, params.limit, complete=complete)
    return Page(rows, next_marker)


class _Order(Generic[R]):
    """The order of a list: by `key`, then by creation. Rows without a `key` come before all others."""

    def __init__(self, model: type[R], key: peewee.Field[Any], *, descending: bool) -> None:
        self._model = model
        self._keys = [key] if key.name == "created_at" else [key, model.created_at]
        self._keys.append(model.id)
        self._descending = descending

    def take(self, select: peewee.ModelSelect[R], after: R | None, count: int) -> list[R]:
        """The first `count` rows after `after`."""
        return list(self._sorted(select, after).limit(count))

    def last_of_page(self, select: peewee.ModelSelect[R], after: R | None, limit: int) -> str | None:
        """The id of the row that is the last of a page, unless no more follow."""
        last_two = self._sorted(select, after).select(self._model.id).limit(2).offset(limit - 1)
        found = list(last_two)
        return found[0].id if len(found) == 2 else None

    def _sorted(self, select: peewee.ModelSelect[R], after: R | None) -> peewee.ModelSelect[R]:
        if after is not None:
            select = select.where(self._follows(after, self._keys))
        return select.order_by(*(self._ordering(key) for key in self._keys))

    def _ordering(self, key: peewee.Field[Any]) -> Any:
        # Left alone, databases put NULLs at different ends.
        if self._descending:
            return key.desc(nulls="last") if key.null else key.desc()
        return key.asc(nulls="first") if key.null else key.asc()

    def _follows(self, row: R, keys: Sequence[peewee.Field[Any]]) -> Any:
        key, *rest = keys
        value = getattr(row, key.name)
        if not rest:
            return key < value if self._descending else key > value
        tied = self._follows(row, rest)
        if value is None:
            return key.is_null() & tied if self._descending else key.is_null(False) | tied
        # The first condition is implied by the second: it lets the database use an index.
        if not self._descending:
            return (key >= value) & ((key > value) | tied)
        follows = (key <= value) & ((key < value) | tied)
        return follows | key.is_null() if key.null else follows


def _rows(
    order: _Order[R],
    select: peewee.ModelSelect[R],
    chunk: list[R],
    size: int,
    limit: int | None,
    *,
    complete: bool,
) -> Iterator[R]:
    left = limit
    while True:
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        yield from chunk
        if complete or left == 0:
            return
        with reading():
            last = chunk[-1]
            chunk = order.take(select, last, size)
        complete = len(chunk) < size


def _marker_row(select: peewee.ModelSelect[R], spec: ListSpec[R], marker: str | None) -> R | None:
    if marker is None:
        return None
    row = None
    if "\0" not in marker and marker.isascii():
        row = select.where(spec.model.id == marker).get_or_none()
    if row is None:
        raise _bad("marker", f"no row '{marker[:80]}'")
    return row


def _filter(
    select: peewee.ModelSelect[R], spec: ListSpec[R], filters: Sequence[tuple[str, str]]
) -> peewee.ModelSelect[R]:
    unknown = [name for name, _ in filters if name not in spec.filters]
    if unknown:
        raise BadRequest(
            f"Unknown filter: {', '.join(sorted(unknown))}.", errors={name: ["unknown filter"] for name in unknown}
        )
    for name, text in filters:
        column = spec.filters[name]
        select = select.where(condition(name, column.field, column.kind, text))
    return select


def _bad(name: str, message: str) -> BadRequest:
    return BadRequest(f"'{name}': {message}.", errors={name: [message]})
