"""Jobs that are due one after another, while a service is in chaos."""

from __future__ import annotations

import random
import time

from tests.chaos.ledger import Told
from tests.chaos.stage import Stage
from tests.chaos.threads import Threads

_FIRST_AFTER_S = 3.0
_PATTERN = "0 0 1 1 *"  # no test meets its times


class Timetable:
    """Makes jobs with a count of 1, each of which is due once.

    The API takes no time that is less than a minute ahead, so the times of the jobs are written into their rows.

    Args:
        stage: the service. Its first function is called.
        most: how many jobs there are.
        for_s: for how long jobs are due.
        longest_s: the longest time for which an execution sleeps.
        seed: chooses the inputs and the times.

    Attributes:
        refused: always 0; the load of other scenarios counts here.
        threads: there are none.
    """

    refused = 0

    def __init__(self, stage: Stage, most: int, for_s: float, longest_s: float, seed: int):
        self._stage = stage
        self._most = most
        self.threads = Threads(0, lambda _: None)
        choices = random.Random(seed)
        function_id = next(iter(stage.functions))
        jobs = []
        for _ in range(most):
            body = {
                "function_id": function_id,
                "function_input": f'{{"seconds": {choices.uniform(0, longest_s):.4f}}}',
                "pattern": _PATTERN,
                "count": 1,
            }
            answer = stage.service.request("POST", "/v1/jobs", json=body)
            assert answer.status_code == 201, answer.text
            jobs.append(answer.json()["id"])
        first_s = time.time() + _FIRST_AFTER_S
        due = [(int((first_s + choices.uniform(0, for_s)) * 1e6), job_id) for job_id in jobs]
        stage.write("UPDATE jobs SET next_execution_time = ? WHERE id = ?", due)

    @property
    def acknowledged(self) -> dict[str, Told]:
        """The executions of the jobs."""
        rows = self._stage.rows("SELECT id, function_id FROM executions WHERE job_id IS NOT NULL")
        return {execution_id: Told(execution_id, function_id) for execution_id, function_id in rows}

    @property
    def is_done(self) -> bool:
        """Whether each job has fired as often as it has to."""
        ((done,),) = self._stage.rows("SELECT count(*) FROM jobs WHERE status = 'done' AND count = 0")
        return bool(done >= self._most)

    def problems(self) -> list[str]:
        """The jobs that have not exactly one execution, one line each."""
        counts = dict(self._stage.rows("SELECT job_id, count(*) FROM executions GROUP BY job_id"))
        jobs = [job_id for (job_id,) in self._stage.rows("SELECT id FROM jobs")]
        return [f"job {job_id} has {counts.get(job_id, 0)} executions" for job_id in jobs if counts.get(job_id) != 1]
