"""What the service says of itself."""

from __future__ import annotations

from qinling_falcon.schemas.base import Shown
from qinling_falcon.schemas.fields import Plain

_LINK = {
    "type": "object",
    "properties": {
        "href": {"type": "string", "format": "uri"},
        "target": {"type": "string"},
        "rel": {"type": "string"},
    },
    "required": ["href", "target", "rel"],
    "additionalProperties": False,
}
_VERSION = {
    "type": "object",
    "properties": {
        "status": {"type": "string"},
        "id": {"type": "string"},
        "links": {"type": "array", "items": _LINK},
    },
    "required": ["status", "id", "links"],
    "additionalProperties": False,
}


class VersionsShown(Shown):
    """The versions of the API."""

    versions = Plain({"type": "array", "items": _VERSION})


class HealthShown(Shown):
    """That it is well."""

    status = Plain({"const": "ok"})
