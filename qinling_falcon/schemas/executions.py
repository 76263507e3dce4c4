"""The schemas of executions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from marshmallow import ValidationError, fields

from qinling_falcon.models.execution_retries import RETRIED
from qinling_falcon.models.retention import FINAL
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.leases import StartKind
from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.schemas.fields import (
    FLAG,
    MILLISECONDS,
    NUMBER,
    TEXT,
    UUID,
    Choice,
    Flag,
    Id,
    Moment,
    Number,
    Plain,
    Text,
    one_of,
)
from qinling_falcon.schemas.targets import TARGET

# What a call waited for: an idle worker, one that had to load the function, or one that had to start.
_COLD: tuple[str, ...] = get_args(StartKind)


_QUEUED = (
    "How long the call waited for a worker. For an asynchronous execution, from when its last attempt was due (when it "
    "was accepted or retried, or after the pause that followed an attempt) until the worker got it."
)


class Input(fields.Field[str]):
    """What a function is called with: any text, or JSON, which is taken as its text."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, str):
            return value
        try:
            return json.dumps(value, ensure_ascii=False)
        except ValueError as error:
            raise ValidationError(f"{error}.") from None


class ExecutionCreate(RequestSchema):
    """`POST /v1/executions`."""

    either = (TARGET,)

    function_id = Id(load_default=None)
    function_alias = Text(load_default=None)
    function_version = Number(load_default=0)
    input = Input(load_default=None)
    sync = Flag(load_default=True)
    description = Text(load_default=None)

    def __init__(self) -> None:
        super().__init__()
        self._defaults = {name: field.load_default for name, field in self.load_fields.items()}

    def read(self, data: Mapping[str, Any], *, lenient: bool = False) -> dict[str, Any]:
        """As `RequestSchema.read`; what is right takes a third of the time, for this is on the path of every call."""
        values = dict(self._defaults)
        try:
            for name, value in data.items():
                field = self.load_fields[name]
                if value is not None:
                    values[name] = field._deserialize(value, name, data)
        except (KeyError, ValidationError):
            return super().read(data, lenient=lenient)  # which finds all that is wrong
        if values["function_id"] is None and values["function_alias"] is None:
            return super().read(data, lenient=lenient)
        return values


class ExecutionUpdate(RequestSchema):
    """`PUT /v1/executions/{id}`, which cancels the execution. The reference spells a job's state `canceled`."""

    status = Choice(("cancelled", "canceled"), required=True)


class SomeExecutions(RequestSchema):
    """The query string of `DELETE /v1/executions`. `function_id` leaves out those of other functions."""

    status = Choice(FINAL, required=True)
    function_id = Id()


class SomeRetries(RequestSchema):
    """`POST /v1/executions/retry`. `function_id` leaves out those of other functions."""

    status = Choice(RETRIED, required=True)
    function_id = Id()


class ChangedExecutions(Shown):
    """How many executions a request has changed, and whether there are more."""

    count = Plain(NUMBER)
    more = Plain(FLAG)


class RetriedExecutions(ChangedExecutions):
    """The same of a retry, and how many it has left."""

    left = Plain({**NUMBER, "maximum": 10_000, "description": "How many can be retried still; counted up to 10,000."})


class ExecutionShown(Shown):
    """An execution in answers."""

    id = Plain(UUID)
    function_id = Plain(UUID)
    function_version = Plain(NUMBER)
    function_alias = Plain(TEXT, null=True)
    description = Plain(TEXT, null=True)
    input = Plain(TEXT, null=True)
    result = Plain(TEXT, null=True)
    status = Plain(one_of(ExecutionStatus))
    status_reason = Plain(TEXT | {"description": "Why it failed, as text for people. It may change."}, null=True)
    sync = Plain(FLAG)
    source = Plain(TEXT)
    cold = Plain(one_of(_COLD), null=True)
    queued_ms = Plain({**MILLISECONDS, "description": _QUEUED}, null=True)
    run_ms = Plain(MILLISECONDS, null=True)
    attempt = Plain(NUMBER)
    webhook_id = Plain(UUID, null=True)
    job_id = Plain(UUID, null=True)
    request_id = Plain(TEXT, null=True)
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()
