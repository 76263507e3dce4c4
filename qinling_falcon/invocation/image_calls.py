"""Calls of functions from images: what the container gets, and how its end becomes the outcome of the execution.

An execution of such a function takes the same way through the engine as any other one. There are two differences:

1. Its lease is that of a worker for a single execution (`pool/single_use.py`), so it needs no warm worker, and all
   limits of concurrency hold for it.
2. In place of a request to a worker, the process makes the container and waits for its end (`ImageRuns`).

If the process dies, there are three cases, for each of which the rules of `engine.py` hold:

1. After the lease, before the container is made: the reaper notices the silent process. There is no container.
2. While the container exists: the same, and the pool manager deletes the container before the execution is recorded as
   `error`, or queued again if it was accepted before. Its name is that of the execution, so a second one can't be made
   while it exists: two attempts never run at the same time.
3. After the record: the pool manager deletes the container when the lease has ended.

The input becomes arguments of the container's command, as in Qinling:

| input | arguments |
|---|---|
| none, or an empty text | none |
| a JSON array | its members; those that are not text, as JSON |
| a JSON text in quotes | that text |
| a JSON object with the one member `__function_input`, a text | the words of that text |
| any other JSON object | one: the object as JSON |
| any other text | its words |
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from functools import cached_property
from typing import Any

from gevent.lock import RLock

from qinling_falcon.invocation.targets import Target
from qinling_falcon.invocation.worker_client import Ran, WorkerLost
from qinling_falcon.orchestrators.base import SingleUse
from qinling_falcon.orchestrators.image_runs import (
    EndKind,
    ImageRun,
    ImageRunEnd,
    ImageRuns,
    RunLost,
    longest_run_s,
)
from qinling_falcon.pool.leases import LeasedWorker, LeaseRequest
from qinling_falcon.pool.single_use import RUNTIME
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

OUT_OF_RESOURCES = "Function execution failed because of too much resource consumption"
TIMED_OUT = "Function execution timeout"
_CANCELLED = "Function execution was cancelled"
_LONGEST_REASON = 2000
# Shells and container engines report the end by a signal as this exit status plus the signal's number.
_SIGNALLED = 128


class ImageCalls:
    """Runs functions from images.

    Args:
        make: makes what runs containers, at the first call. It may take long, and most processes run no images.
        holder: this process, as the pool knows it.
        settings: the limits.
    """

    def __init__(self, make: Callable[[], ImageRuns], holder: str, settings: Settings):
        self._make = make
        self._holder = holder
        self._settings = settings
        self._making = RLock()

    def lease_request(self, target: Target, execution_id: str, detail: str, arrived: float) -> LeaseRequest:
        """The request for the lease of a worker that runs this execution alone."""
        return LeaseRequest(
            target=target.key,
            runtime_id=RUNTIME,
            function_id=target.function_id,
            project_id=target.project_id,
            execution_id=execution_id,
            generations=target.generations,
            run_s=longest_run_s(self._settings, target.timeout_s) + self._settings.lease_grace_s,
            detail=detail,
            concurrency=target.concurrency,
            arrived=arrived,
            single_use_image=target.image,
        )

    def run(self, worker: LeasedWorker, target: Target, execution_id: str, text: str | None) -> Ran:
        """Run an execution in a container.

        Args:
            worker: the leased worker, for which the container is made.
            target: the function.
            execution_id: the execution.
            text: the input.

        Raises:
            WorkerLost: it is not known how the container has ended.
            Unavailable: no container can be made now; the function has not run.
        """
        assert target.image is not None
        run = ImageRun(
            execution_id,
            worker.worker_id,
            SingleUse(self._holder, worker.name),
            target.function_id,
            target.image,
            arguments_of(text),
            target.cpu,
            target.memory_size,
            target.timeout_s,
        )
        with self._making:
            runs = self._runs
        try:
            return outcome_of(run, runs.run(run))
        except RunLost as error:
            raise WorkerLost(str(error)) from error

    def cancel(self, worker: LeasedWorker, execution_id: str) -> bool:
        """End the container of a worker. Returns False if there is none yet, or none any more."""
        return "_runs" in vars(self) and self._runs.cancel(worker.worker_id)

    @cached_property
    def _runs(self) -> ImageRuns:
        return self._make()


def arguments_of(text: str | None) -> tuple[str, ...]:
    """The arguments for an input (see the table above)."""
    if not text:
        return ()
    try:
        value = json.loads(text)
    except ValueError:
        return tuple(text.split())
    match value:
        case str():
            return (value,)
        case list():
            return tuple(member if isinstance(member, str) else json.dumps(member) for member in value)
        case {"__function_input": str(words), **others} if not others:
            return tuple(words.split())
        case dict():
            return (text,)
    return tuple(text.split())


def outcome_of(run: ImageRun, end: ImageRunEnd) -> Ran:
    """The outcome of an execution, from the end of its container. The result of a success is only its duration."""
    duration_s = end.duration_s
    if end.kind is EndKind.TIMED_OUT:
        duration_s = max(duration_s, run.timeout_s)
    result: dict[str, Any] = {"duration": round(duration_s, 3)}
    if end.kind is EndKind.SUCCEEDED:
        return Ran("success", None, json.dumps(result), end.log, duration_s)
    reason, output, message = _failure(run, end)
    message = message[:_LONGEST_REASON]
    result["output"] = message if output is None else output
    status = "cancelled" if end.kind is EndKind.CANCELLED else "failed"
    return Ran(status, message, json.dumps(result), end.log, duration_s, reason=reason)


def _failure(run: ImageRun, end: ImageRunEnd) -> tuple[str, str | None, str]:
    """The kind of a failure as workers name it, the output for programs (None: the message), and the message."""
    match end.kind:
        case EndKind.TIMED_OUT:
            return "timeout", TIMED_OUT, f"The function ran longer than its timeout of {run.timeout_s:g} s."
        case EndKind.OUT_OF_MEMORY:
            limit = f"{run.memory_size} bytes ({run.memory_size / MIB:g} MiB)"
            return "memory", OUT_OF_RESOURCES, f"The function used more than its memory_size of {limit}."
        case EndKind.OUT_OF_DISK:
            return "disk", OUT_OF_RESOURCES, f"The function wrote too much to its disk. {end.reason}"
        case EndKind.CANCELLED:
            return "cancelled", _CANCELLED, "The execution was cancelled."
        case EndKind.UNUSABLE:
            return "load", None, f"Image {run.image!r} can't be run. {end.reason}"
    return "exited", None, f"The function's container ended with exit status {_named(end.exit_status)}."


def _named(exit_status: int | None) -> str:
    if exit_status is not None and exit_status > _SIGNALLED:
        try:
            return f"{exit_status}, as by signal {signal.Signals(exit_status - _SIGNALLED).name}"
        except ValueError:
            pass
    return str(exit_status)
