"""The time that rows are stamped with."""

from __future__ import annotations

import datetime
import time

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

_last = 0


def now() -> datetime.datetime:
    """The present in UTC, with microseconds; later at each call of a process.

    Rows are listed in order of creation, so no two rows of a process may share
    an instant, not even when its clock stands still or steps back a little.
    """
    global _last
    instant = max(time.time_ns() // 1000, _last + 1)
    _last = instant
    return from_micros(instant)


def to_micros(moment: datetime.datetime) -> int:
    """Microseconds since the epoch; a time without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime.datetime:
    """The UTC time of so many microseconds since the epoch."""
    return EPOCH + datetime.timedelta(microseconds=micros)
