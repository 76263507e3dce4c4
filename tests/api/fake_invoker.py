"""An invoker without workers, for tests of what comes before and after it."""

from __future__ import annotations

import uuid

from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.models import clock
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool


class FakeInvoker:
    """Resolves the call as the real one does, records a success, and remembers what it was asked for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._resolver = Resolver(pool)
        self.calls: list[Call] = []
        self.error: Exception | None = None

    def invoke(self, context: Context, call: Call) -> ExecutionRecord:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        target = self._resolve(context, call)
        while self._pool.generations([what for what, _ in target.generations]) != dict(target.generations):
            self._resolver.forget(target)
            target = self._resolve(context, call)
        now = clock.now()
        final = ExecutionRecord(
            id=str(uuid.uuid4()),
            project_id=context.project_id,
            function_id=target.function_id,
            function_version=target.version,
            function_alias=call.function_alias,
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

    def _resolve(self, context: Context, call: Call) -> Target:
        if call.function_alias is not None:
            return self._resolver.resolve_alias(context, call.function_alias)
        assert call.function_id is not None
        return self._resolver.resolve(context, call.function_id, call.function_version)
