"""The schemas of functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validates_schema

from qinling_falcon.errors import BadRequest
from qinling_falcon.models.states import Isolation
from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.callbacks import CallbackSecret, CallbackUrl
from qinling_falcon.schemas.entries import DEFAULT_ENTRY, Entry
from qinling_falcon.schemas.fields import (
    FLAG,
    NUMBER,
    SECONDS,
    TEXT,
    UUID,
    Choice,
    Id,
    JsonText,
    Moment,
    Number,
    Plain,
    Seconds,
    Text,
    one_of,
)
from qinling_falcon.schemas.strict_json import parse_json
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings
from qinling_falcon.storage.swift_names import why_not

# What `code` may hold beside its source.
_MEMBERS = {"package": {"md5sum"}, "swift": {"md5sum", "swift"}, "image": {"image"}}
_OBJECT = frozenset({"container", "object"})
_CODE_OF_PACKAGE = 'For a package, code is {"source": "package"}.'
# Marshmallow formats its messages, so braces are doubled.
_CODE_MISSING = f"Missing data for required field. {_CODE_OF_PACKAGE}".replace("{", "{{").replace("}", "}}")
_LONGEST_NAME = 1024
MOST_ATTEMPTS = 100
LONGEST_BACKOFF_S = 3600.0
_MD5 = re.compile(r"[0-9a-f]{32}")
_NAME = {"type": "string", "minLength": 1, "maxLength": _LONGEST_NAME}
_SUM = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
# As answers show it.
CODE: Mapping[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"source": {"const": "package"}, "md5sum": _SUM},
            "required": ["source", "md5sum"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "source": {"const": "swift"},
                "md5sum": _SUM,
                "swift": {
                    "type": "object",
                    "properties": {"container": _NAME, "object": _NAME},
                    "required": ["container", "object"],
                    "additionalProperties": False,
                },
            },
            "required": ["source", "swift"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"source": {"const": "image"}, "image": _NAME},
            "required": ["source", "image"],
            "additionalProperties": False,
        },
    ]
}


class Code(fields.Field[dict[str, Any]]):
    """The source of a function's code: a JSON object, or its text (in forms)."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if isinstance(value, str):
            try:
                value = parse_json(value, max_depth=8, field=self.name or "")
            except BadRequest as error:
                if error.errors:  # they name the member of `code`
                    raise
                raise ValidationError(f"{error.message} {_CODE_OF_PACKAGE}") from None
        if not isinstance(value, dict):
            raise ValidationError("must be a JSON object.")
        code = {name: member for name, member in value.items() if member is not None}
        source = code.get("source")
        if not isinstance(source, str) or source not in _MEMBERS:
            raise ValidationError(f"source must be one of {', '.join(_MEMBERS)}. {_CODE_OF_PACKAGE}")
        unknown = sorted(code.keys() - _MEMBERS[source] - {"source"})
        if unknown:
            raise ValidationError(f"Unknown field of source {source}: {', '.join(unknown)}.")
        if "md5sum" in code:
            code["md5sum"] = parse_md5(code["md5sum"])
        if "image" in code:
            code["image"] = _parse_name("image", code["image"])
        if "swift" in code:
            code["swift"] = _parse_object(code["swift"])
        return code


class Limit(Number):
    """A resource limit of a function, with its allowed range."""

    def __init__(self, settings: Settings, kind: str, unit: str, *, step: int = 1, **kwargs: Any):
        super().__init__(lowest=getattr(settings, f"min_{kind}"), highest=getattr(settings, f"max_{kind}"), **kwargs)
        self._kind = kind.removesuffix("_size")
        self.unit = unit
        self.step = step

    def _check(self, value: int) -> int:
        value = -(-value // self.step) * self.step
        if not self.lowest <= value <= self.highest:
            raise ValidationError(
                f"{self._kind} resource limitation not within the allowable range:"
                f" {self.lowest} ~ {self.highest}({self.unit})."
            )
        return value


class _FunctionRequest(RequestSchema):
    """The fields that creating and updating share. `memory` is another name of `memory_size`.

    The limits' ranges, and the networks that callbacks may reach, come from the settings.
    """

    callback_secret = CallbackSecret(allow_none=True)

    def __init__(self, settings: Settings):
        super().__init__()
        configured: dict[str, fields.Field[Any]] = {
            "cpu": Limit(settings, "cpu", "millicpu"),
            "memory_size": Limit(settings, "memory_size", "bytes", step=MIB),
            "memory": Limit(settings, "memory_size", "bytes", step=MIB),
            "timeout": Limit(settings, "timeout", "second"),
            "on_success": CallbackUrl(settings, allow_none=True),
            "on_failure": CallbackUrl(settings, allow_none=True),
        }
        self.declared_fields |= configured
        self._init_fields()

    @validates_schema(skip_on_field_errors=True)
    def _one_memory(self, data: dict[str, Any], **kwargs: Any) -> None:
        memory = data.pop("memory", None)
        if memory is not None and data.setdefault("memory_size", memory) != memory:
            raise ValidationError("memory and memory_size are the same field, with different values.", "memory")


class FunctionCreate(_FunctionRequest):
    """`POST /v1/functions`.

    The package is not a field of this schema. Only the reference client may omit the name.
    """

    free_if_lenient = ("name",)
    name = Text(required=True, shortest=1)
    description = Text(load_default=None)
    runtime_id = Id(load_default=None)
    code = Code(required=True, error_messages={"required": _CODE_MISSING})
    entry = Entry(longest=80, load_default=None, metadata={"default": DEFAULT_ENTRY})
    isolation = Choice(Isolation, load_default=None)
    concurrency = Number(lowest=1, load_default=None)
    min_warm = Number(load_default=0)
    max_attempts = Number(lowest=1, highest=MOST_ATTEMPTS, load_default=1)
    backoff_s = Seconds(highest=LONGEST_BACKOFF_S, load_default=1.0)
    max_age_s = Number(lowest=1, load_default=None)

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._defaults = {
            "name": None,
            "cpu": settings.default_cpu,
            "memory_size": settings.default_memory_size,
            "timeout": settings.default_timeout,
            "on_success": None,
            "on_failure": None,
            "callback_secret": None,
        }
        for name in ("cpu", "memory_size", "timeout"):
            self.fields[name].metadata = {"default": self._defaults[name]}

    def read(self, data: Any, *, lenient: bool = False) -> dict[str, Any]:
        """As `RequestSchema.read`, with the defaults of what is not given."""
        return self._defaults | super().read(data, lenient=lenient)


class FunctionUpdate(_FunctionRequest):
    """`PUT /v1/functions/{id}`. A null removes a limit of the function's own, a callback, or its secret."""

    nullable = ("concurrency", "max_age_s", "on_success", "on_failure", "callback_secret")
    name = Text(shortest=1)
    description = Text()
    runtime_id = Id()
    code = Code()
    entry = Entry(longest=80)
    isolation = Choice(Isolation)
    concurrency = Number(lowest=1, allow_none=True)
    min_warm = Number()
    max_attempts = Number(lowest=1, highest=MOST_ATTEMPTS)
    backoff_s = Seconds(highest=LONGEST_BACKOFF_S)
    max_age_s = Number(lowest=1, allow_none=True)
    count = Number()  # the reference lists it; it has no effect


class FunctionShown(Shown):
    """A function in lists, and when it is asked for: `code` is JSON text."""

    id = Plain(UUID)
    name = Plain(TEXT, null=True)
    description = Plain(TEXT, null=True)
    runtime_id = Plain(UUID, null=True)
    code: fields.Field[Any] = JsonText()
    entry = Plain(TEXT, null=True)
    cpu = Plain(NUMBER)
    memory_size = Plain(NUMBER)
    timeout = Plain(NUMBER)
    isolation = Plain(one_of(Isolation), null=True)
    concurrency = Plain(NUMBER, null=True)
    min_warm = Plain(NUMBER)
    max_attempts = Plain(NUMBER)
    backoff_s = Plain(SECONDS)
    max_age_s = Plain(NUMBER, null=True)
    on_success = Plain(TEXT, null=True)
    on_failure = Plain(TEXT, null=True)
    has_callback_secret = Plain(FLAG)
    count = Plain(NUMBER)
    latest_version = Plain(NUMBER)
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()


class FunctionMade(FunctionShown):
    """A function that was just created or updated: `code` is an object."""

    code = Plain(CODE)


def _parse_name(member: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _LONGEST_NAME:
        raise ValidationError(f"{member} must be text of 1 to {_LONGEST_NAME} characters.")
    return value


def _parse_object(value: Any) -> dict[str, str]:
    """Where an object lies in Swift; which of the two an update leaves out is for `changes_of` to fill in."""
    if not isinstance(value, dict) or not value or value.keys() - _OBJECT:
        raise ValidationError("swift must be an object with container and object, and nothing else.")
    named = {name: _parse_name(f"swift.{name}", member) for name, member in value.items() if member is not None}
    for kind, name in named.items():
        wrong = why_not(kind, name)
        if wrong is not None:
            raise ValidationError(f"swift.{kind} {wrong}")
    return named


def parse_md5(value: Any) -> str:
    """`value` as an MD5 sum in small letters.

    Raises:
        ValidationError: it is none.
    """
    if not isinstance(value, str) or not _MD5.fullmatch(value.lower()):
        raise ValidationError("md5sum must be 32 hexadecimal digits.")
    return value.lower()
