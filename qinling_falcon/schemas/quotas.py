"""The schemas of quotas."""

from __future__ import annotations

from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.fields import NUMBER, Number, Plain, Text
from qinling_falcon.settings import QUOTAS

# The largest integer that every JSON parser reads exactly.
_HIGHEST = 2**53 - 1
_LIMIT = {"type": "integer", "minimum": -1, "description": "-1: there is no limit."}
_QUOTA = {
    "type": "object",
    "properties": {"limit": _LIMIT, "used": NUMBER},
    "required": ["limit", "used"],
    "additionalProperties": False,
}


def _limit() -> Number:
    return Number(lowest=-1, highest=_HIGHEST)


class QuotasUpdate(RequestSchema):
    """`PUT /v1/quotas`: the new limits; -1: no limit."""

    project_id = Text(shortest=1)
    functions = _limit()
    package_bytes = _limit()
    versions = _limit()
    aliases = _limit()
    webhooks = _limit()
    jobs = _limit()
    executions = _limit()
    kept_workers = _limit()


class QuotasShown(Shown):
    """The quotas of a project in answers."""

    quotas = Plain(
        {
            "type": "object",
            "properties": dict.fromkeys(QUOTAS, _QUOTA),
            "required": list(QUOTAS),
            "additionalProperties": False,
        }
    )
