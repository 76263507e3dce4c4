"""Runtimes: what requests may hold, what answers show."""

from __future__ import annotations

from qinling_falcon.models.states import Isolation, RuntimeStatus
from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.fields import FLAG, NUMBER, TEXT, UUID, Choice, Flag, Moment, Plain, Text, one_of


class RuntimeCreate(RequestSchema):
    """`POST /v1/runtimes`."""

    image = Text(required=True, shortest=1)
    name = Text(load_default=None)
    description = Text(load_default=None)
    is_public = Flag(load_default=True)
    trusted = Flag(load_default=True)
    isolation = Choice(Isolation, load_default=Isolation.WARM.value)


class RuntimeUpdate(RequestSchema):
    """`PUT /v1/runtimes/{id}`."""

    name = Text()
    description = Text()
    image = Text(shortest=1)
    isolation = Choice(Isolation)


class RuntimeShown(Shown):
    """A runtime in answers."""

    id = Plain(UUID)
    name = Plain(TEXT, null=True)
    description = Plain(TEXT, null=True)
    image = Plain(TEXT)
    is_public = Plain(FLAG)
    trusted = Plain(FLAG)
    status = Plain(one_of(RuntimeStatus))
    status_reason = Plain(TEXT, null=True)
    isolation = Plain(one_of(Isolation))
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()


class PoolShown(Shown):
    """The warm pool of a runtime in answers."""

    name = Plain(UUID)
    capacity = Plain(
        {
            "type": "object",
            "properties": {"total": NUMBER, "available": NUMBER},
            "required": ["total", "available"],
            "additionalProperties": False,
        }
    )
