"""Aliases: what requests may hold, what answers show."""

from __future__ import annotations

import re
from typing import Any

from marshmallow import ValidationError, fields, validates_schema

from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.fields import NUMBER, TEXT, UUID, Id, Moment, Number, Plain, Text

_UNSPEAKABLE = re.compile(r"[/\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


class AliasName(Text):
    """A name that is one segment of a path."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if _UNSPEAKABLE.search(text) or text in (".", ".."):
            raise ValidationError("must hold no slash and no control characters, and not be a dot or two.")
        return text


class Routing(fields.Field[Any]):
    """`{"<version>": weight}`: the share of calls, from 0 to 1, that go to one other version; `{}` is none."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[int, float] | None:
        if value == {}:
            return None
        if not isinstance(value, dict) or len(value) != 1:
            raise ValidationError('must be an object with exactly one other version: {"<version>": weight}.')
        ((version, weight),) = value.items()
        if not _NUMBER.fullmatch(version):
            raise ValidationError(f"'{version[:80]}' is no version number.")
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight <= 1:
            raise ValidationError("the weight must be a number from 0 to 1.")
        return int(version), float(weight)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> dict[str, float] | None:
        return None if value is None else {str(value[0]): value[1]}


class _AliasRequest(RequestSchema):
    """What creating and updating share. `version` is another name of `function_version`."""

    function_version = Number()
    version = Number()
    description = Text()
    routing = Routing()

    @validates_schema(skip_on_field_errors=True)
    def _one_version(self, data: dict[str, Any], **kwargs: Any) -> None:
        version = data.pop("version", None)
        if version is not None and data.setdefault("function_version", version) != version:
            message = "version and function_version are the same field, with different values."
            raise ValidationError(message, "version")


class AliasCreate(_AliasRequest):
    """`POST /v1/aliases`."""

    name = AliasName(required=True, shortest=1)
    function_id = Id(required=True)


class AliasUpdate(_AliasRequest):
    """`PUT /v1/aliases/{name}`. The reference's example repeats the name, which can't change."""

    name = Text()
    function_id = Id()


class AliasShown(Shown):
    """An alias in answers."""

    id = Plain(UUID)
    name = Plain(TEXT)
    function_id = Plain(UUID)
    function_version = Plain(NUMBER)
    description = Plain(TEXT, null=True)
    routing = Routing()
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()
