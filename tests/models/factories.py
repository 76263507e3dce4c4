"""Rows, and ways to make things happen at once."""

from __future__ import annotations

import datetime
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg2

from qinling_falcon.models import clock, database, execution_ends, function, rollout, runtime
from qinling_falcon.models.function import Function
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.runtime import Runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings


def make_runtime(context: Context, *, available: bool = True, **fields: Any) -> Runtime:
    made = runtime.create(context, **({"image": "python3"} | fields))
    if available:
        assert rollout.promote(made.id, made.image)
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


def end_claimed(record: ExecutionRecord) -> bool:
    """End an execution whose claims have the same numbers as its attempts."""
    return execution_ends.end(record, record.attempt)


def record_as_before(settings: Settings, record: ExecutionRecord) -> None:
    """Write a record into a table that has only the columns of the first migration."""
    names = record._fields[: record._fields.index("attempt")]
    values = [getattr(record, name) for name in names]
    values = [clock.to_micros(value) if isinstance(value, datetime.datetime) else value for value in values]
    url, path = settings.effective_database_url, settings.effective_database_url.removeprefix("sqlite:///")
    connection: Any = psycopg2.connect(url) if path == url else sqlite3.connect(path)
    try:
        marks = ", ".join(["%s" if path == url else "?"] * len(names))
        connection.cursor().execute(f"INSERT INTO executions ({', '.join(names)}) VALUES ({marks})", values)
        connection.commit()
    finally:
        connection.close()


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


_ELSEWHERE = """
import sys
from pathlib import Path
from qinling_falcon.models import alias, database, function, job, version, webhook
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
database.connect(Settings(var_dir=Path({var_dir!r}), database_url={database_url!r}))
context = Context("project-a")
print("ready", flush=True)
for line in sys.stdin:
    target = line.strip()
    try:
        {statement}
        print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


def raced(
    settings: Settings, statement: str, targets: Sequence[str], call: Callable[[str], Any]
) -> list[tuple[str, Any]]:
    """For one target after the other, run a statement in another process and `call` in this one, at the same moment.

    Args:
        settings: of the database.
        statement: Python; it knows the models, a `context` of project-a, and its `target`.
        targets: texts.
        call: gets the target.

    Returns:
        For each target `done` or the name of what the statement raised, and what the call returned or raised.
    """
    script = _ELSEWHERE.format(
        var_dir=str(settings.var_dir), database_url=settings.database_url, statement=statement
    )
    root = Path(__file__).parents[2]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        asked, answers = process.stdin, process.stdout
        assert asked is not None and answers is not None
        assert answers.readline() == "ready\n"

        def elsewhere(target: str) -> str:
            asked.write(f"{target}\n")
            asked.flush()
            return answers.readline().strip()

        outcomes = []
        for target in targets:
            there, here = together([lambda target=target: elsewhere(target), lambda target=target: call(target)])
            outcomes.append((there, here))
        asked.close()
    assert process.returncode == 0
    return outcomes
