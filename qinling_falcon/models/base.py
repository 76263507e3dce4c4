"""What the models of all tables share: their database, and how times are stored.

Times are whole microseconds since the epoch, because integers sort, compare and index in the same way on every database
and need no parsing.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, TypeVar

import peewee

from qinling_falcon.models import clock

_V = TypeVar("_V")

database = peewee.DatabaseProxy()

if TYPE_CHECKING:
    _Field = peewee.Field
else:
    _Field = {_V: peewee.Field}  # peewee's fields are generic in their stubs alone


class UtcTime(_Field[_V]):
    """A time in UTC with microseconds."""

    field_type = "BIGINT"

    def db_value(self, value: datetime.datetime | int | None) -> int | None:
        """Microseconds since the epoch."""
        return clock.to_micros(value) if isinstance(value, datetime.datetime) else value

    def python_value(self, value: int | None) -> datetime.datetime | None:
        """An aware datetime in UTC."""
        return None if value is None else clock.from_micros(value)
