"""Rows, and ways to make things happen at once."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from qinling_falcon.models import clock, database, function, runtime
from qinling_falcon.models.function import Function
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.runtime import Runtime
from qinling_falcon.models.scope import Context


def make_runtime(context: Context, *, available: bool = True, **fields: Any) -> Runtime:
    made = runtime.create(context, **({"image": "python3"} | fields))
    if available:
        assert runtime.settle(made.id, made.image)
    return runtime.get(context, made.id)


def make_function(context: Context, runtime_id: str, **fields: Any) -> Function:
    defaults: dict[str, Any] = {
        "name": "hello",
        "code": {"source": "package", "md5sum": "0" * 32},
        "entry": "main.main",
        "cpu": 100,
        "memory_size": 33554432,
        "timeout": 5,
        "package_key": "key-1",
    }
    return function.create(context, runtime_id=runtime_id, **(defaults | fields))


def make_record(function_id: str, project_id: str = "project-a", **fields: Any) -> ExecutionRecord:
    now = clock.now()
    defaults: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "project_id": project_id,
        "function_id": function_id,
        "status": "success",
        "result": '{"duration": 0.001, "output": "Hello, World"}',
        "log": "Start execution: x\nFinished execution: x\n",
        "created_at": now,
        "updated_at": now,
    }
    return ExecutionRecord(**(defaults | fields))


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make all calls at once; their results, or what they raised, in order."""
    outcomes: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        try:
            outcomes[place] = calls[place]()
        except Exception as error:
            outcomes[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def in_one_batch(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Like `together`, while the writer is held until all calls wait for it."""
    lane = database._current().writer._lane
    held = threading.Event()

    def hold() -> None:
        held.set()
        give_up = time.monotonic() + 4
        while lane.waiting() < len(calls) and time.monotonic() < give_up:
            lane.pause(0.001)

    def later(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            held.wait()
            return call()

        return run

    return together([lambda: database.transact(hold), *(later(call) for call in calls)])[1:]
