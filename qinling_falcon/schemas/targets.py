"""What requests that name a function have in common."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, validates_schema

from qinling_falcon.schemas.base import RequestSchema
from qinling_falcon.schemas.fields import Id, Number, Text


class TargetRequest(RequestSchema):
    """A function and a version of it, or an alias; of both, the alias counts."""

    function_id = Id()
    function_version = Number()
    function_alias = Text(shortest=1)


class TargetRequired(TargetRequest):
    """The same, and one of both has to be there."""

    @validates_schema(skip_on_field_errors=True)
    def _named(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "function_id" not in data and "function_alias" not in data:
            raise ValidationError("function_id or function_alias is required.", "function_id")
