"""What requests that name a function have in common."""

from __future__ import annotations

from qinling_falcon.schemas.base import RequestSchema
from qinling_falcon.schemas.fields import Id, Number, Text

# One of both has to be given, where one is needed.
TARGET = ("function_id", "function_alias")


class TargetRequest(RequestSchema):
    """A function and a version of it, or an alias; of both, the alias counts."""

    function_id = Id()
    function_version = Number()
    function_alias = Text(shortest=1)
