"""An invoker without workers, for tests of what comes before and after it."""

from __future__ import annotations

import uuid

from qinling_falcon.invocation.invoker import Call
from qinling_falcon.models import clock, function
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context


class FakeInvoker:
    """Finds the function, records a success, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.error: Exception | None = None

    def invoke(self, context: Context, call: Call) -> ExecutionRecord:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        function.get(context, call.function_id)
        now = clock.now()
        final = ExecutionRecord(
            id=str(uuid.uuid4()),
            project_id=context.project_id,
            function_id=call.function_id,
            function_version=call.function_version,
            description=call.description,
            input=call.input,
            result='{"duration": 0.044, "output": "Hello"}',
            log="Start execution: x\nHällo\nFinished execution: x\n",
            status="success",
            cold="none",
            queued_ms=1.5,
            run_ms=44.0,
            created_at=now,
            updated_at=now,
        )
        record(final)
        return final
