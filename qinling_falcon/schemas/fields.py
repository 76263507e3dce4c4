"""The field types of requests and answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from marshmallow import ValidationError, fields

from qinling_falcon.models.clock import read_time

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Python's int() accepts at most 4300 digits.
_WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?")
TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
FALSE = frozenset({"0", "f", "false", "off", "n", "no"})
# What every database holds in an INTEGER.
LARGEST_NUMBER = 2**31 - 1
# Times are reckoned with, and Python knows none after the year 9999.
_LAST_YEAR = 9000


UUID: Mapping[str, Any] = {"type": "string", "format": "uuid"}
TEXT: dict[str, Any] = {"type": "string"}
NUMBER: Mapping[str, Any] = {"type": "integer"}
FLAG: Mapping[str, Any] = {"type": "boolean"}
MILLISECONDS: Mapping[str, Any] = {"type": "number", "minimum": 0}
SECONDS: Mapping[str, Any] = {"type": "number", "minimum": 0}


def any_case(words: Iterable[str]) -> str:
    """A pattern that matches the words, in small and large letters."""
    letters = ("".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in word) for word in sorted(words))
    return f"^({'|'.join(letters)})$"


# True or false in query strings, where all is text.
FLAG_AS_TEXT: dict[str, Any] = {"anyOf": [FLAG, {"type": "string", "pattern": any_case(TRUE | FALSE)}]}
FLAG_OR_EMPTY: Mapping[str, Any] = {"anyOf": [FLAG, {"type": "string", "pattern": any_case(TRUE | FALSE | {""})}]}


def one_of(values: Iterable[str]) -> Mapping[str, Any]:
    """Text that is one of `values`."""
    return {"type": "string", "enum": [str(value) for value in values]}


class Plain(fields.Raw):
    """A value that answers show as it is.

    Args:
        kind: what it is, as JSON Schema; it says so in the API document, and nothing else.
        null: it may be null.
    """

    def __init__(self, kind: Mapping[str, Any], *, null: bool = False):
        super().__init__(allow_none=null)
        self.kind = kind


class Text(fields.Field[str]):
    """Text of a bounded length."""

    def __init__(self, *, longest: int = 255, shortest: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.longest = longest
        self.shortest = shortest

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text.")
        if len(value) > self.longest:
            raise ValidationError(f"must have at most {self.longest} characters.")
        if len(value) < self.shortest:
            raise ValidationError("must not be empty.")
        return value


def run_check(check: Callable[[str], None], text: str, subject: str = "") -> None:
    """Run a check, and raise its ValueError as a ValidationError.

    Args:
        check: raises ValueError for a text that is not accepted.
        text: the text.
        subject: put before the message, such as `secrets: each`.

    Raises:
        ValidationError: the text is not accepted.
    """
    try:
        check(text)
    except ValueError as error:
        raise ValidationError(f"{subject} {error}".lstrip()) from None


class CheckedText(Text):
    """Text that passes a check.

    Args:
        check: raises ValueError for a text that is not accepted.
    """

    def __init__(self, check: Callable[[str], None], **kwargs: Any):
        super().__init__(**kwargs)
        self._check = check

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        run_check(self._check, text)
        return text


class Choice(fields.Field[str]):
    """Text that must be one of a fixed set of words."""

    def __init__(self, words: Iterable[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.words = [str(word) for word in words]

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if value not in self.words:
            raise ValidationError(f"must be one of {', '.join(self.words)}.")
        return str(value)


class Id(fields.Field[str]):
    """A UUID with dashes."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        return parse_uuid(value)


class Number(fields.Field[int]):
    """A whole number. JSON may write it as `1.0`. Text is accepted too, because forms and the reference client send it.

    Args:
        lowest: the smallest accepted value.
        highest: the largest accepted value; infinity: no limit.

    Attributes:
        unit: the unit, for messages.
    """

    unit: str | None = None

    def __init__(self, *, lowest: int = 0, highest: float = LARGEST_NUMBER, **kwargs: Any):
        super().__init__(**kwargs)
        self.lowest = lowest
        self.highest = highest

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        is_whole_text = isinstance(value, str) and _WHOLE.fullmatch(value.strip())
        if is_whole_text or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValidationError(f"must be a whole number ({self.unit})." if self.unit else "must be a whole number.")
        return self._check(value)

    def _check(self, value: int) -> int:
        if not self.lowest <= value <= self.highest:
            wanted = f"at least {self.lowest}" if self.highest == math.inf else f"from {self.lowest} to {self.highest}"
            raise ValidationError(f"must be {wanted}.")
        return value


class Seconds(fields.Field[float]):
    """A duration from 0 to `highest` seconds, which may have a fraction. Text is accepted too, as in `Number`."""

    def __init__(self, *, highest: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.highest = highest

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValidationError("must be a number of seconds.")
        if not 0 <= value <= self.highest:
            raise ValidationError(f"must be from 0 to {self.highest:g} seconds.")
        return float(value)


class Flag(fields.Field[bool]):
    """True or false; as text too."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        parsed = value if isinstance(value, bool) else parse_flag(value) if isinstance(value, str) else None
        if parsed is None:
            raise ValidationError("must be true or false.")
        return parsed


# The last time in an answer, and its text. Most times of calls are in the same second, and making the text takes 3 µs.
_last_shown = datetime.min, ""


class Moment(fields.Field[datetime]):
    """A time: UTC, whole seconds; in answers without a zone, in requests with any zone, or none."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            moment, _ = read_time(value if isinstance(value, str) else "")
        except ValueError:
            raise ValidationError("must be a time such as 2019-06-07 22:41:00 (UTC), or in ISO 8601.") from None
        if moment.year > _LAST_YEAR:
            raise ValidationError(f"must not be after the year {_LAST_YEAR}.")
        return moment.replace(microsecond=0)

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        global _last_shown
        if value is None:
            return None
        second = value.replace(microsecond=0, tzinfo=None)
        if second != _last_shown[0]:
            _last_shown = second, str(second)
        return _last_shown[1]


class JsonText(fields.Field[Any]):
    """An object that answers show as JSON text."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else json.dumps(value)


def parse_uuid(value: Any) -> str:
    """Parse a UUID and return it in lower case.

    Raises:
        ValidationError: `value` is not a UUID.
    """
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        received = str(value)[:80] or "an empty text"
        raise ValidationError(f"Expected a uuid but received {received}. It must be an id, not a name.")
    return value.lower()


def parse_flag(text: str) -> bool | None:
    """The truth value that `text` stands for; None: it stands for none."""
    word = text.lower()
    return True if word in TRUE else False if word in FALSE else None
