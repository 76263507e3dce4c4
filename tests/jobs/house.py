"""The processes around jobs, in one: a scheduler and a `tasks` process, which tests let die at any step."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.jobs import alarms, scheduler
from qinling_falcon.jobs.queues import TASKS, JsonJob, JsonQueue
from qinling_falcon.jobs.scheduler import DueScheduler
from tests.jobs.bench import SECOND, Bench


class Died(BaseException):
    """The process died here."""


class RolledBack(Unavailable):
    """The process died here, in a transaction. An error of another kind would end the writer of the test's process."""


class House:
    """A scheduler and a `tasks` process on a bench, with the bench's clock.

    Args:
        bench: the database, Valkey and clock.
        client: of RQ's.
        patch: undoes what tests change.
    """

    def __init__(self, bench: Bench, client: Any, patch: pytest.MonkeyPatch):
        self.bench, self._client, self._patch = bench, client, patch
        clock = SimpleNamespace(time=lambda: bench.clock().timestamp(), monotonic=time.monotonic)
        patch.setattr(scheduler, "time", clock)
        alarms.set_tick(bench.tick())

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass, second by second. Every 10 s, the alarms are restored, as a `tasks` process does."""
        for second in range(seconds):
            self.bench.clock.now += SECOND
            if second % 10 == 0:
                self.restore()
            self.schedule()
            self.work()

    def restore(self) -> None:
        self.bench.alarms.restore(self.bench.clock.now)

    def schedule(self) -> None:
        """One turn of a scheduler."""
        DueScheduler(self._client)._turn()

    def work(self) -> None:
        """Run the tasks that wait, as a worker of RQ does: a task is taken from the queue before it runs."""
        while (second := self._take()) is not None:
            alarms.ring(second)

    def work_once(self) -> None:
        """Run one task, and raise what it raises."""
        assert self._take() is not None
        self.bench.run()

    def _take(self) -> int | None:
        """Take a task from the queue. Returns the second of its alarm; None: there is no task that has not been run."""
        while (job_id := self._client.lpop(JsonQueue(TASKS, connection=self._client).key)) is not None:
            if self._client.delete(JsonJob.key_for(job_id.decode())):
                return int(job_id.decode().removeprefix("alarm-"))
        return None

    def die(
        self,
        step: Callable[[], None],
        owner: Any,
        name: str,
        *,
        after: bool,
        error: type[BaseException] = Died,
    ) -> None:
        """Let a process die in a step: before or after its first call of a function. The next process is a new one."""
        function = getattr(owner, name)

        def dies(*arguments: Any, **options: Any) -> Any:
            if after:
                function(*arguments, **options)
            raise error("The process died here.")

        with self._patch.context() as patch:
            patch.setattr(owner, name, dies)
            with pytest.raises(error):
                step()
        alarms.set_tick(self.bench.tick())

    def alarms_set(self) -> list[int]:
        """The seconds for which alarms are set."""
        found = self._client.zrange(DueScheduler.scheduled_jobs_key, 0, -1, withscores=True)
        assert all(job_id == f"alarm-{score:.0f}".encode() for job_id, score in found)
        return [int(score) for _, score in found]
