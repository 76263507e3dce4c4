"""Runtimes: what requests may hold, what answers show."""

from __future__ import annotations

from marshmallow import fields

from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.fields import Flag, Moment, Text


class RuntimeCreate(RequestSchema):
    """`POST /v1/runtimes`."""

    image = Text(required=True, shortest=1)
    name = Text(load_default=None)
    description = Text(load_default=None)
    is_public = Flag(load_default=True)
    trusted = Flag(load_default=True)


class RuntimeUpdate(RequestSchema):
    """`PUT /v1/runtimes/{id}`."""

    name = Text()
    description = Text()
    image = Text(shortest=1)


class RuntimeShown(Shown):
    """A runtime in answers."""

    id = fields.Raw()
    name = fields.Raw()
    description = fields.Raw()
    image = fields.Raw()
    is_public = fields.Raw()
    trusted = fields.Raw()
    status = fields.Raw()
    status_reason = fields.Raw()
    project_id = fields.Raw()
    created_at = Moment()
    updated_at = Moment()
