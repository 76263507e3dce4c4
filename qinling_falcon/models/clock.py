"""The time that rows are stamped with."""

from __future__ import annotations

import datetime
import random
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


def new_id(moment: datetime.datetime) -> str:
    """A UUID (version 7) that sorts by `moment`.

    Rows that come one after the other then lie side by side in the table's index, which a random id would
    scatter over all of it. It is unique, and no secret.
    """
    number = to_micros(moment) // 1000 << 80 | 0x7 << 76 | random.getrandbits(12) << 64 | 0b10 << 62
    digits = f"{number | random.getrandbits(62):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def to_micros(moment: datetime.datetime) -> int:
    """Microseconds since the epoch; a time without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime.datetime:
    """The UTC time of so many microseconds since the epoch."""
    return EPOCH + datetime.timedelta(microseconds=micros)
