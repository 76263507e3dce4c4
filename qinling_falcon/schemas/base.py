"""The base classes of all schemas: nulls in requests count as absent, errors are ours, and answers render quickly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, validates_schema

from qinling_falcon.errors import BadRequest
from qinling_falcon.schemas.fields import Plain

_UNKNOWN = "Unknown field."


class RequestSchema(Schema):
    """The schema of a request.

    Attributes:
        free_if_lenient: required fields that are optional for a client that is read leniently.
        either: groups of fields; a request must have at least one of each group.
        nullable: fields of which null is a value.
    """

    error_messages = {"unknown": _UNKNOWN}
    free_if_lenient: tuple[str, ...] = ()
    either: tuple[tuple[str, ...], ...] = ()
    nullable: tuple[str, ...] = ()

    @validates_schema(skip_on_field_errors=True)
    def _has_either(self, data: dict[str, Any], **kwargs: Any) -> None:
        missing = [names for names in self.either if all(data.get(name) is None for name in names)]
        if missing:
            raise ValidationError({names[0]: [f"{' or '.join(names)} is required."] for names in missing})

    def read(self, data: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
        """Validate a request and return its values. A field that is null counts as not given, unless it is `nullable`.

        Args:
            data: the JSON object, or the fields of a form.
            lenient: ignore unknown fields, and do not require `free_if_lenient`; for the reference client.

        Raises:
            BadRequest: some fields are invalid; the error names each one with the reason.
        """
        if None in data.values():
            meant = self.fields.keys() - self.nullable
            data = {name: value for name, value in data.items() if value is not None or name not in meant}
        try:
            free = self.free_if_lenient if lenient else ()
            loaded: dict[str, Any] = self.load(data, unknown=EXCLUDE if lenient else RAISE, partial=free)
        except ValidationError as error:
            raise refused(cast(dict[str, list[str]], error.messages), self.load_fields) from None
        return loaded


class Shown(Schema):
    """What an answer shows of a row or a record: all declared fields, each an attribute of the same name.

    A field of a class of its own may name another one (`attribute`).

    `show` does what `dump` would, in a quarter of the time: it is on the path of every call and every listed row.
    """

    def __init__(self) -> None:
        super().__init__()
        self._plain = [name for name, field in self.fields.items() if type(field) is Plain]
        made = {name: field for name, field in self.fields.items() if type(field) is not Plain}
        self._made = [(name, field.attribute or name, field) for name, field in made.items()]

    def show(self, row: object) -> dict[str, Any]:
        """The fields of `row`, ready for JSON."""
        shown = {name: getattr(row, name) for name in self._plain}
        for name, attribute, field in self._made:
            shown[name] = field._serialize(getattr(row, attribute), name, row)
        return shown


def unknown_fields(names: Iterable[str], known: Iterable[str]) -> BadRequest:
    """The error for unknown fields; it lists the `known` ones."""
    return refused({name: [_UNKNOWN] for name in names}, known)


def refused(errors: Mapping[str, list[str]], known: Iterable[str]) -> BadRequest:
    """The error for invalid fields; for unknown fields it lists the `known` ones."""
    unknown = [name for name, messages in errors.items() if messages == [_UNKNOWN]]
    sentences = []
    if unknown:
        sentences.append(f"Unknown field: {', '.join(unknown)}. {_known(known)}")
    for name, messages in errors.items():
        if name not in unknown:
            sentences += [message if message.startswith(name) else f"{name}: {message}" for message in messages]
    return BadRequest(" ".join(sentences), errors=errors)


def _known(names: Iterable[str]) -> str:
    listed = ", ".join(sorted(names))
    return f"Known are {listed}." if listed else "There are none here."
