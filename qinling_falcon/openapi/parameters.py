"""What may stand in paths, query strings and headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import ListSpec
from qinling_falcon.resources.documents import FILES
from qinling_falcon.resources.function_versions import VERSION
from qinling_falcon.resources.operation import Operation
from qinling_falcon.schemas.fields import FALSE, FLAG_AS_TEXT, TRUE, any_case
from qinling_falcon.settings import Settings

_IN_PATHS: dict[str, dict[str, Any]] = {
    "version": VERSION,
    "alias_name": {"type": "string", "minLength": 1, "pattern": "^[^/]+$", "description": "Name of an alias."},
    "path": {"type": "string", "minLength": 1, "description": "The rest of the path; it may contain slashes."},
    "file_name": {"type": "string", "enum": sorted(FILES)},
}
_ID = {"type": "string", "format": "uuid"}
_ONE = {
    Kind.INTEGER: r"\s*[+-]?[0-9]{1,18}\s*",
    Kind.NUMBER: r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?",
    Kind.BOOLEAN: any_case(TRUE | FALSE)[1:-1],
    Kind.TIME: (
        r"\s*(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
        r"([Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{1,9})?)?"
        r"\s?([Zz]|[+\- ]([01][0-9]|2[0-3])(:?[0-5][0-9])?)?)?\s*"
    ),
}


def in_path(path: str) -> Iterator[dict[str, Any]]:
    """The parameters of a path."""
    for name in re.findall(r"{(\w+)}", path):
        schema = dict(_IN_PATHS.get(name, _ID))
        about = schema.pop("description", f"Id of the {name.removesuffix('_id')}." if name.endswith("_id") else "")
        yield _parameter("path", name, schema, about) | {"required": True}


def in_headers(operation: Operation) -> Iterator[dict[str, Any]]:
    """The headers that an operation reads."""
    for name, described in operation.headers:
        schema = dict(described)
        yield _parameter("header", name, schema, schema.pop("description", ""))


def in_query(operation: Operation, settings: Settings) -> Iterator[dict[str, Any]]:
    """The parameters of an operation's query string."""
    for name, described in operation.query:
        schema = dict(described)
        required = {"required": True} if schema.pop("required", False) else {}
        yield _parameter("query", name, schema, schema.pop("description", "")) | required
    answers = operation.answers
    if answers.lists is not None:
        yield from _paging(answers.lists, settings)
        if answers.all_projects:
            yield _parameter("query", "all_projects", dict(FLAG_AS_TEXT), "Rows of all projects; for admins.")
        for name, column in sorted(answers.lists.filters.items()):
            yield _parameter("query", name, _filter(column.kind), f"Filter: {column.kind.value}, or `operator:value`.")


def _paging(spec: ListSpec[Any], settings: Settings) -> Iterator[dict[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "default": settings.list_limit}
    yield _parameter("query", "limit", limit, f"Rows of a page; more than {settings.list_limit_max} count as that.")
    yield _parameter("query", "marker", {"type": "string"}, "Id of the last row of the page before.")
    keys = {"type": "string", "enum": sorted(spec.sort_keys), "default": "created_at"}
    yield _parameter("query", "sort_key", keys, "What rows are sorted by.")
    direction = {"type": "string", "enum": ["asc", "desc"], "default": "asc"}
    yield _parameter("query", "sort_dir", direction, "In which direction.")


def _filter(kind: Kind) -> dict[str, Any]:
    """A value, or an operator and a value or several."""
    if kind is Kind.TEXT:
        return {"type": "string"}
    value = _ONE[kind]
    compared = "eq|neq" if kind is Kind.BOOLEAN else "eq|neq|gt|gte|lt|lte"
    several = value.replace("[.,]", r"\.")  # commas stand between them
    return {"type": "string", "pattern": rf"^(({compared}):)?({value})$|^(in|nin):({several})(,({several}))*$"}


def _parameter(place: str, name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    parameter = {"name": name, "in": place, "schema": schema}
    return parameter | {"description": description} if description else parameter
