"""What the operations on all kinds of rows have in common."""

from __future__ import annotations

from typing import Any, TypeVar

import peewee

from qinling_falcon.errors import Forbidden, NotFound
from qinling_falcon.models.database import engine, reading
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Row

R = TypeVar("R", bound=Row)


def find(select: peewee.ModelSelect[R], row_id: str, *, lock: bool = False, field: str | None = None) -> R:
    """The row with this id among those of `select`.

    Args:
        select: what the asker may see.
        row_id: the id.
        lock: inside a write transaction: nobody else changes the row until its end.
        field: the name of the request's field that the id came in.

    Raises:
        NotFound: unknown, or not the asker's.
    """
    query = select.where(select.model.id == row_id)
    return find_one(query, f"{select.model.__name__} {row_id}", lock=lock, field=field)


def find_one(query: peewee.ModelSelect[R], what: str, *, lock: bool = False, field: str | None = None) -> R:
    """The one row of `query`; `what` names it in the message. Else as `find`.

    Raises:
        NotFound: there is none.
    """
    # SQLite has one writer at a time, and no such clause.
    if lock and engine().for_update:
        query = query.for_update()
    with reading():
        row = query.get_or_none()
    if row is None:
        message = f"{what} not found."
        raise NotFound(f"{field}: {message}" if field else message, errors={field: [message]} if field else None)
    return row


def check_owner(context: Context, row: Row, act: str) -> None:
    """Raise `Forbidden` unless the row is of the caller's own project."""
    if row.project_id != context.project_id:
        kind = type(row).__name__.lower()
        raise Forbidden(f"Operation not allowed: only the owner may {act} {kind} {row.id}.")


def change(row: R, changes: dict[str, Any]) -> R:
    """Write some columns of a row, and nothing else of it: others may be changing the rest."""
    model = type(row)
    model.update(changes).where(model.id == row.id).execute()
    for name, value in changes.items():
        setattr(row, name, value)
    return row
