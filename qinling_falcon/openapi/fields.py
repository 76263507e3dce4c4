"""Converts the fields of the schemas to JSON Schema, which accepts exactly the values that the service accepts."""

from __future__ import annotations

import functools
import math
from typing import Any

from marshmallow import Schema, fields

from qinling_falcon.models.webhook import LONGEST_TOLERANCE_S, UNSIGNED
from qinling_falcon.schemas.aliases import AliasName, Routing
from qinling_falcon.schemas.base import Shown
from qinling_falcon.schemas.callbacks import CallbackSecret, CallbackUrl
from qinling_falcon.schemas.entries import FILE_NAMED, Entry
from qinling_falcon.schemas.executions import Input
from qinling_falcon.schemas.fields import (
    FLAG_AS_TEXT,
    SECONDS,
    Choice,
    Flag,
    Id,
    JsonText,
    Moment,
    Number,
    Plain,
    Seconds,
    Text,
    any_case,
    one_of,
)
from qinling_falcon.schemas.functions import CODE, Code, Limit
from qinling_falcon.schemas.jobs import Pattern, Status, TimeZone
from qinling_falcon.schemas.webhooks import (
    ANY,
    METHODS,
    MOST_ORIGINS,
    MOST_PER_MINUTE,
    MOST_SECRETS,
    InvokeUrl,
    Methods,
    Origins,
    RateLimit,
    Signature,
)
from qinling_falcon.webhooks.signatures import Scheme
from qinling_falcon.webhooks.signing import SECRET_PATTERN
from qinling_falcon.webhooks.urls import LONGEST_URL

# Names of formats that JSON Schema doesn't know: the patterns say only what a pattern can.
TIME, CRON, CODE_TEXT = "qinling-time", "cron", "qinling-code"
CALLBACK, ORIGIN, ZONE = "qinling-callback", "qinling-origin", "iana-time-zone"
SECRET = "password"
_WRITTEN_TIME = (
    r"^\s*(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?\s?([Zz]|[+\- ][0-9]{2}(:?[0-5][0-9])?)?)?\s*$"
)
_SHOWN_TIME = "^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$"
_DECIMAL = r"^\s*[0-9]{1,20}(\.[0-9]{1,20})?\s*$"
_WHOLE_NUMBER = r"^\s*[+-]?[0-9]{1,18}\s*$"
_ALIAS = r"^[^/\u0000-\u001f\u007f-\u009f]*$"
# Of what is space to Python, JSON Schema's \s has not all.
_PART = r"""[^\s\u0000-\u001f\u007f-\u009f/\\.:;,()\[\]{}<>'"`]+"""
_ENTRY = rf"^{_PART}(\.{_PART})+$"
_SUM = "^[0-9a-fA-F]{32}$"
_CALLBACK = r"^[Hh][Tt][Tt][Pp][Ss]?://[!-\"$-\[\]-~]+$"


def describe(field: fields.Field[Any], schema: Schema) -> dict[str, Any]:
    """A field of `schema` as JSON Schema; in a request, null is a way not to give what need not be given."""
    shown = isinstance(schema, Shown)
    described = _shown(field) if shown else _taken(field)
    return or_null(described) if (field.allow_none if shown else not field.required) else described


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, or null."""
    if "anyOf" in schema:
        return schema | {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "oneOf" in schema:
        return schema | {"oneOf": [*schema["oneOf"], {"type": "null"}]}
    if "type" not in schema:
        return schema
    nullable = schema | {"type": [schema["type"], "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, but never null."""
    schema = dict(schema)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            schema[word] = [part for part in schema[word] if part != {"type": "null"}]
    if isinstance(schema.get("type"), list):
        (schema["type"],) = (name for name in schema["type"] if name != "null")
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    return schema


def or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema for a form, where an empty number, id, flag, callback or secret counts as not given."""
    kinds = schema.get("anyOf", [schema])
    formats = ("uuid", CALLBACK, SECRET)
    if any(kind.get("type") in ("integer", "boolean") or kind.get("format") in formats for kind in kinds):
        return {"anyOf": [*kinds, {"const": "", "description": "Not given."}]}
    return schema


@functools.singledispatch
def _taken(field: fields.Field[Any]) -> dict[str, Any]:
    raise TypeError(f"{type(field).__name__} is not described: add it to {__name__}")


@_taken.register
def _(field: Text) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string", "maxLength": field.longest}
    return text | {"minLength": field.shortest} if field.shortest else text


@_taken.register
def _(field: AliasName) -> dict[str, Any]:
    return _text(field) | {"pattern": _ALIAS, "not": {"enum": [".", ".."]}}


@_taken.register
def _(field: Entry) -> dict[str, Any]:
    about = "`module.function`, such as `hello.main`; or `folder.module.function`."
    return _text(field) | {"pattern": _ENTRY, "not": {"pattern": FILE_NAMED}, "description": about}


@_taken.register
def _(field: Pattern) -> dict[str, Any]:
    return _text(field) | {"format": CRON, "description": "A cron pattern of five fields that fires."}


@_taken.register
def _(field: TimeZone) -> dict[str, Any]:
    about = "A name of the IANA time zone database, such as `Europe/Berlin`. The pattern is read in this zone."
    return _text(field) | {"format": ZONE, "description": about}


@_taken.register
def _(field: Id) -> dict[str, Any]:
    return {"type": "string", "format": "uuid"}


@_taken.register
def _(field: CallbackUrl) -> dict[str, Any]:
    about = "A URL of a public host, without user, password and fragment, that is called when an execution has ended."
    url = {"type": "string", "format": CALLBACK, "pattern": _CALLBACK, "maxLength": LONGEST_URL}
    return url | {"description": about}


@_taken.register
def _(field: CallbackSecret) -> dict[str, Any]:
    about = "The secret that signs callbacks: `whsec_` and 24 to 64 random bytes in base64. It is never shown."
    secret = {"type": "string", "format": SECRET, "pattern": f"^{SECRET_PATTERN}$"}
    return secret | {"writeOnly": True, "description": about}


@_taken.register
def _(field: Methods) -> dict[str, Any]:
    names = {"type": "string", "pattern": any_case(name.lower() for name in METHODS)}
    some = {"type": "array", "items": names, "minItems": 1, "maxItems": len(METHODS)}
    about = "The HTTP methods that the webhook takes. `[\"*\"]`: any."
    any_method = {"type": "array", "items": {"const": ANY}, "minItems": 1, "maxItems": 1}
    return {"anyOf": [some, any_method], "description": about}


@_taken.register
def _(field: Origins) -> dict[str, Any]:
    origin = {"type": "string", "format": ORIGIN, "pattern": r"^(\*|[a-z][a-z0-9+.-]*://[a-z0-9._\[\]:-]+)$"}
    about = "The origins whose pages may call the webhook; `*`: all pages. An empty list: none."
    return {"type": "array", "items": origin, "maxItems": MOST_ORIGINS, "description": about}


@_taken.register
def _(field: Signature) -> dict[str, Any]:
    secret = {"type": "string", "format": SECRET, "minLength": 1, "writeOnly": True}
    members = {
        "tolerance_s": or_null(_number(1, LONGEST_TOLERANCE_S)),
        "secrets": or_null({"type": "array", "items": secret, "minItems": 1, "maxItems": MOST_SECRETS}),
    }
    kinds = [
        _members({"scheme": {"const": scheme}}, needed=True) for scheme in (*Scheme, UNSIGNED)
    ]
    for kind in kinds:
        kind["properties"] = kind["properties"] | members
    about = (
        "How deliveries are signed. A new one needs secrets; they are never shown. An update keeps the secrets and the"
        " tolerance that it leaves out, if the scheme stays. The scheme `none` removes the signature."
    )
    return {"anyOf": kinds, "description": about}


@_taken.register
def _(field: RateLimit) -> dict[str, Any]:
    limit = _members({"per_minute": _number(1, MOST_PER_MINUTE)}, needed=True)
    limit["properties"]["burst"] = or_null(_number(1, MOST_PER_MINUTE))
    none = _members({"per_minute": {"type": "null"}}, needed=True)
    none["properties"]["burst"] = {"type": "null"}
    about = "How many deliveries are taken a minute, and at once. A `per_minute` of null removes the limit."
    return {"anyOf": [limit, none], "description": about}


@_taken.register
def _(field: Choice) -> dict[str, Any]:
    return dict(one_of(field.words))


@_taken.register
def _(field: Number) -> dict[str, Any]:
    return _number(field.lowest, field.highest)


@_taken.register
def _(field: Seconds) -> dict[str, Any]:
    number = {**SECONDS, "maximum": field.highest}
    return {"anyOf": [number, {"type": "string", "pattern": _DECIMAL, "description": "The same, as text."}]}


@_taken.register
def _(field: Limit) -> dict[str, Any]:
    """Values are rounded up to whole steps before they are compared."""
    above = (-(-field.lowest // field.step) - 1) * field.step
    return _number(above + 1, field.highest // field.step * field.step)


@_taken.register
def _(field: Flag) -> dict[str, Any]:
    return dict(FLAG_AS_TEXT)


@_taken.register
def _(field: Moment) -> dict[str, Any]:
    about = "UTC, or with an offset; as `2019-06-07 22:41:00` or in ISO 8601."
    return {"type": "string", "format": TIME, "pattern": _WRITTEN_TIME, "description": about}


@_taken.register
def _(field: Input) -> dict[str, Any]:
    return {"description": "Any text, or any JSON, which is taken as its text. An object is keyword arguments."}


@_taken.register
def _(field: Status) -> dict[str, Any]:
    return {"type": "string", "enum": sorted(field.known)}


@_taken.register
def _(field: Routing) -> dict[str, Any]:
    return {
        "type": "object",
        "maxProperties": 1,
        "patternProperties": {"^(0|[1-9][0-9]{0,8})$": {"type": "number", "minimum": 0, "maximum": 1}},
        "additionalProperties": False,
        "description": "The share of calls that go to one other version.",
    }


@_taken.register
def _(field: Code) -> dict[str, Any]:
    """Who makes a function says all of where its code is; an update says what is to be another."""
    name = {"type": "string", "minLength": 1, "maxLength": 1024}
    md5sum = {"md5sum": or_null({"type": "string", "pattern": _SUM})}
    place = _members({"container": name, "object": name}, needed=field.required) | {"minProperties": 1}
    kinds = {
        "package": (md5sum, {}),
        "swift": (md5sum, {"swift": place}),
        "image": ({}, {"image": name}),
    }
    objects = []
    for source, (optional, own) in kinds.items():
        described = _members(own, needed=field.required)
        described["properties"] = {"source": {"const": source}} | optional | described["properties"]
        objects.append(described | {"required": ["source", *described.get("required", ())]})
    return {"anyOf": [*objects, CODE_AS_TEXT]}


def _members(members: dict[str, dict[str, Any]], *, needed: bool) -> dict[str, Any]:
    """An object with these members and no others, all of them or any."""
    described = {"type": "object", "additionalProperties": False}
    if needed:
        return described | {"properties": members, "required": list(members)}
    return described | {"properties": {name: or_null(member) for name, member in members.items()}}


CODE_AS_TEXT = {
    "type": "string",
    "format": CODE_TEXT,
    "contentMediaType": "application/json",
    "description": "The object, as JSON text.",
}


@functools.singledispatch
def _shown(field: fields.Field[Any]) -> dict[str, Any]:
    raise TypeError(f"{type(field).__name__} is not described: add it to {__name__}")


@_shown.register
def _(field: Plain) -> dict[str, Any]:
    return dict(field.kind)


@_shown.register
def _(field: Moment) -> dict[str, Any]:
    known = field.name in ("created_at", "first_execution_time", "next_execution_time")
    moment = {"type": "string", "pattern": _SHOWN_TIME, "description": "UTC, in whole seconds."}
    return moment if known else or_null(moment)


@_shown.register
def _(field: JsonText) -> dict[str, Any]:
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": dict(CODE)}


@_shown.register
def _(field: Routing) -> dict[str, Any]:
    return or_null(_taken(field) | {"minProperties": 1})


@_shown.register
def _(field: InvokeUrl) -> dict[str, Any]:
    return {"type": "string", "format": "uri"}


def _text(field: Text) -> dict[str, Any]:
    return _taken.dispatch(Text)(field)


def _number(lowest: int, highest: float) -> dict[str, Any]:
    number = {"type": "integer", "minimum": lowest} | ({} if highest == math.inf else {"maximum": highest})
    return {"anyOf": [number, {"type": "string", "pattern": _WHOLE_NUMBER, "description": "The same, as text."}]}
