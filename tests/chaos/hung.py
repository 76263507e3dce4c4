"""Executions that hang while others run. The others must not wait for them."""

from __future__ import annotations

import time

from tests.chaos.functions import HANGS_ON
from tests.chaos.ledger import Told
from tests.chaos.stage import Stage
from tests.integration.service import wait_until

# One function gets a part of the workers only (see ASYNC_WORKERS), so that more of its executions than these wait.
_LEAST_RUNNING = 2


class Hung:
    """Executions of one function, each of which hangs until it is cancelled or its time limit has passed.

    Args:
        stage: the service.
        count: how many executions there are; more than the service runs of one function at once.

    Attributes:
        acknowledged: the executions, as in `Load`.
        problems: what is wrong, one line each.
    """

    def __init__(self, stage: Stage, count: int):
        self.acknowledged: dict[str, Told] = {}
        self.problems: list[str] = []
        self._stage = stage
        self._count = count

    def start(self) -> None:
        """Have them accepted, and wait until some of them run."""
        function_id = self._stage.make_function(HANGS_ON)
        for _ in range(self._count):
            execution_id = self._stage.service.accept(function_id, {"seconds": 0})
            self.acknowledged[execution_id] = Told(execution_id, function_id)
        wait_until("functions hang", lambda: len(list(self._stage.counters.iterdir())) >= _LEAST_RUNNING)

    def end(self) -> None:
        """Check that all others have ended before the first of these, and cancel these."""
        queued = {execution_id for (execution_id,) in self._stage.rows("SELECT id FROM execution_queue")}
        waiting, ended = queued - self.acknowledged.keys(), self.acknowledged.keys() - queued
        if waiting:
            self.problems.append(f"{len(waiting)} executions have not ended while others hung: {sorted(waiting)[:8]}")
        if ended:
            self.problems.append(f"{len(ended)} executions that hang have ended before others: {sorted(ended)[:8]}")
        # The last ones first, because those that wait would begin when others end.
        for execution_id, told in reversed(self.acknowledged.items()):
            path = f"/v1/executions/{execution_id}"
            answer = self._stage.service.request("PUT", path, json={"status": "cancelled"})
            if answer.status_code == 202:
                told.cancelled_at = time.monotonic()
            elif execution_id in queued:
                self.problems.append(f"{execution_id} can't be cancelled: {answer.text}")
