"""Jobs: what requests may hold, what answers show."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validates_schema

from qinling_falcon.models.cron import check_pattern
from qinling_falcon.models.states import JobStatus, Misfire, Overlap
from qinling_falcon.models.zones import check_zone
from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.executions import Input
from qinling_falcon.schemas.fields import NUMBER, TEXT, UUID, CheckedText, Choice, Moment, Number, Plain, Text, one_of
from qinling_falcon.schemas.targets import TARGET, TargetRequest


class Pattern(CheckedText):
    """A cron pattern that fires at some time."""

    def __init__(self, **kwargs: Any):
        super().__init__(check_pattern, **kwargs)


class TimeZone(CheckedText):
    """The name of a time zone."""

    def __init__(self, **kwargs: Any):
        super().__init__(check_zone, **kwargs)


class Status(fields.Field[str]):
    """A state that users can put a job into. The reference spells one of them `canceled`."""

    known = {
        "running": JobStatus.RUNNING,
        "paused": JobStatus.PAUSED,
        "cancelled": JobStatus.CANCELLED,
        "canceled": JobStatus.CANCELLED,
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        status = self.known.get(value) if isinstance(value, str) else None
        if status is None:
            raise ValidationError("must be one of running, paused, cancelled.")
        return status.value


class JobCreate(TargetRequest):
    """`POST /v1/jobs`."""

    either = (TARGET, ("pattern", "first_execution_time"))

    name = Text()
    function_input = Input()
    pattern = Pattern()
    first_execution_time = Moment()
    count = Number(lowest=1)
    misfire = Choice(Misfire)
    overlap = Choice(Overlap)
    timezone = TimeZone()

    @validates_schema(skip_on_field_errors=True)
    def _times(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "pattern" not in data and data.get("count", 1) > 1:
            raise ValidationError("must be 1 without a pattern: such a job runs once.", "count")


class JobUpdate(RequestSchema):
    """`PUT /v1/jobs/{id}`."""

    name = Text()
    function_input = Input()
    status = Status()
    pattern = Pattern()
    next_execution_time = Moment()
    misfire = Choice(Misfire)
    overlap = Choice(Overlap)
    timezone = TimeZone()


class JobShown(Shown):
    """A job in answers."""

    id = Plain(UUID)
    name = Plain(TEXT, null=True)
    function_id = Plain(UUID, null=True)
    function_version = Plain(NUMBER, null=True)
    function_alias = Plain(TEXT, null=True)
    function_input = Plain(TEXT, null=True)
    pattern = Plain(TEXT, null=True)
    count = Plain(NUMBER, null=True)
    status = Plain(one_of(JobStatus))
    first_execution_time = Moment()
    next_execution_time = Moment()
    misfire = Plain(one_of(Misfire))
    overlap = Plain(one_of(Overlap))
    timezone = Plain(TEXT)
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()
