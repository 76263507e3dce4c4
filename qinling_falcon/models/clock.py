"""Times: the one that rows are stamped with, and those that users write."""

from __future__ import annotations

import datetime
import hashlib
import random
import re
import time

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
# A `+` in a query string arrives as a space.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?\s?(Z|[+\- ]\d\d(?::?[0-5]\d)?)?)?",
    re.IGNORECASE | re.ASCII,
)
# A UUID of version 7, as `new_id` writes it.
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

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


def wall() -> datetime.datetime:
    """The present in UTC, as the machine's clock shows it. Due times and ends of claims are compared with it.

    If this clock is set back, `now` stands still until it catches up, and `wall` follows it. A process that is started
    after that never had the old time.
    """
    return from_micros(time.time_ns() // 1000)


def new_id(moment: datetime.datetime) -> str:
    """A UUID (version 7) that sorts by `moment`, which `read_id` finds in it.

    Rows that come one after the other then lie side by side in the table's index, which a random id would
    scatter over all of it. It is unique, and no secret.
    """
    return _id_of(to_micros(moment), random.getrandbits(64))


def fixed_id(moment: datetime.datetime, name: str) -> str:
    """An id as `new_id` makes it, but always the same one for the same moment and name."""
    micros = to_micros(moment)
    digest = hashlib.sha256(f"{micros} {name}".encode()).digest()
    return _id_of(micros, int.from_bytes(digest[:8]))


def _id_of(micros: int, bits: int) -> str:
    """The UUID (version 7) of a time, made unique by 64 bits."""
    milliseconds, micros = divmod(micros, 1000)
    high, low = bits >> 62, bits & (1 << 62) - 1
    return _as_uuid(milliseconds << 80 | 0x7 << 76 | micros << 66 | high << 64 | 0b10 << 62 | low)


def random_id() -> str:
    """A random UUID (version 4). It is unique, and no secret. `uuid.uuid4` takes three times as long."""
    random_bits = random.getrandbits(128) & ~(0xF << 76 | 0b11 << 62)
    return _as_uuid(random_bits | 0x4 << 76 | 0b10 << 62)


def _as_uuid(number: int) -> str:
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def read_id(text: str) -> datetime.datetime | None:
    """The moment of an id that `new_id` has made; None: it has made no such id.

    In ids of earlier versions of this service, the part of the moment below a millisecond is random.
    """
    if not _ID.fullmatch(text):
        return None
    number = int(text.replace("-", ""), 16)
    instant = (number >> 80) * 1000 + min(number >> 66 & 0x3FF, 999)
    return from_micros(instant) if instant <= time.time_ns() // 1000 else None


def to_micros(moment: datetime.datetime) -> int:
    """Microseconds since the epoch; a time without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime.datetime:
    """The UTC time of so many microseconds since the epoch."""
    # Adding a `timedelta` takes three times as long. A float is exact for whole seconds, and before the year 2100 for
    # microseconds.
    return datetime.datetime.fromtimestamp(micros / 1_000_000, datetime.UTC)


def read_time(text: str) -> tuple[datetime.datetime, datetime.datetime]:
    """The first and the last microsecond that `text` can mean; without a zone it is UTC.

    Takes `YYYY-MM-DD[ HH:MM[:SS[.ffffff]]]`, with `T`, `Z` or an offset. Without a fraction it means a whole second.

    Raises:
        ValueError: no such time.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    *parts, fraction, zone = match.groups()
    year, month, day, hour, minute, second = (int(part or 0) for part in parts)
    moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=_zone(zone))
    try:
        first = moment.astimezone(datetime.UTC)
    except OverflowError as error:
        raise ValueError(text) from error
    if fraction:
        first = first.replace(microsecond=int(fraction[:6].ljust(6, "0")))
        return first, first
    return first, first.replace(microsecond=999_999)


def _zone(text: str | None) -> datetime.timezone:
    if text is None or text in "Zz":
        return datetime.UTC
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    offset = datetime.timedelta(hours=hours, minutes=minutes)
    return datetime.timezone(-offset if text[0] == "-" else offset)
