"""The schemas of function versions, and of requests about workers."""

from __future__ import annotations

import math

from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.fields import NUMBER, TEXT, UUID, Moment, Number, Plain, Text
from qinling_falcon.settings import MOST_WORKERS, Settings


class VersionCreate(RequestSchema):
    """`POST /v1/functions/{id}/versions`."""

    description = Text(load_default=None)


class VersionShown(Shown):
    """A version in answers."""

    id = Plain(UUID)
    function_id = Plain(UUID)
    version_number = Plain(NUMBER)
    description = Plain(TEXT, null=True)
    count = Plain(NUMBER)
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()


class ScaleUp(RequestSchema):
    """`POST …/scale_up`: the number of workers to add, at most `MAX_WORKERS`, or 1000 if that is not set."""

    def __init__(self, settings: Settings):
        super().__init__()
        self.declared_fields["count"] = Number(lowest=1, highest=settings.max_workers or MOST_WORKERS, load_default=1)
        self._init_fields()


class ScaleDown(RequestSchema):
    """`POST …/scale_down`: the number of workers to end. A number above the existing ones ends all but one."""

    count = Number(lowest=1, highest=math.inf, load_default=1)


class WorkerShown(Shown):
    """A worker of a function in answers."""

    function_id = Plain(UUID)
    function_version = Plain(NUMBER)
    worker_name = Plain(TEXT)
