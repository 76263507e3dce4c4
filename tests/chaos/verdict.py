"""Checks what must hold when all faults are over and the queue is empty."""

from __future__ import annotations

import datetime
import json
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from qinling_falcon.pool import keys
from qinling_falcon.pool.lua import ANCHOR
from tests.chaos.callbacks import Deliveries
from tests.chaos.ledger import Told
from tests.chaos.stage import Stage
from tests.chaos.web import HEADER
from tests.integration.service import wait_until
from tests.soak.traces import Traces

_SETTLED_WITHIN_S = 60.0
# While the database is away for longer than a claim, an execution can be claimed by two processes.
_OUTAGES = frozenset({"suspend database", "stop postgres"})
# A process that is killed keeps its callbacks for their timeout and half a minute.
_DELIVERED_WITHIN_S = 60.0
# A message to a process takes so long at most, on a busy machine.
_MESSAGE_S = 1.0
# The longest wait for a worker (INVOKE_QUEUE_TIMEOUT_S), and time to load the function.
_LONGEST_LATE_S = 15.0
_MOST_SHOWN = 8


class Run(NamedTuple):
    """A run of a function, as it has counted itself: when it began and ended, in seconds; no end: it was killed."""

    began: float
    ended: float | None


class Row(NamedTuple):
    """An execution, as it is stored."""

    id: str
    project_id: str
    function_id: str
    status: str
    status_reason: str | None
    result: str | None
    attempt: int
    description: str | None
    updated_at: int

    @property
    def output(self) -> object:
        """What the function has returned."""
        return json.loads(self.result)["output"] if self.result else None

    def shown(self) -> dict[str, object]:
        """What the API shows of it."""
        ended_at = datetime.datetime.fromtimestamp(self.updated_at // 1_000_000, datetime.UTC)
        return self._asdict() | {"updated_at": f"{ended_at:%Y-%m-%d %H:%M:%S}"}


@dataclass
class Verdict:
    """The state of a service after chaos, and what is wrong with it.

    Attributes:
        stage: the service.
        acknowledged: what callers were told about executions.
        deliveries: the callbacks; None: no function has any.
        faults: what was done to the service.
        problems: one line each.
        numbers: what happened how often, for the report.
    """

    stage: Stage
    acknowledged: dict[str, Told]
    deliveries: Deliveries | None = None
    faults: Collection[str] = ()
    problems: list[str] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)
    late_starts: int = field(default=0, init=False)
    overlaps: int = field(default=0, init=False)

    def check(self) -> None:
        """Fill `problems` and `numbers`."""
        self._check_callbacks()
        self._check_executions()
        self._check_counts()
        self._check_pool()
        self._check_service()

    def _check_executions(self) -> None:
        rows = self._rows()
        runs = self._runs()
        known = {row.id for row in rows}
        if len(known) != len(rows):
            self.problems.append("executions have several rows")
        for told in self.acknowledged.values():
            if told.id not in known:
                self._check_absent(told, runs[told.id])
        for execution_id in runs.keys() - known - self.acknowledged.keys():
            self.problems.append(f"{execution_id} has run, has no row and was not acknowledged")
        for row in rows:
            self._check_row(row, runs[row.id])
        self._check_keys(rows)
        queued = self.stage.rows("SELECT id, not_before, claimed_until, attempt FROM execution_queue")
        if queued:
            self.problems.append(f"the queue still has {len(queued)} rows: {queued[:_MOST_SHOWN]}")
        self.numbers |= {
            "executions": len(rows),
            "acknowledged": len(self.acknowledged),
            "statuses": dict(Counter(row.status for row in rows)),
            "attempts": dict(Counter(row.attempt for row in rows)),
            "runs": dict(Counter(len(runs[row.id]) for row in rows)),
            "functions that began after the end": self.late_starts,
            "runs that overlap": self.overlaps,
        }

    def _check_absent(self, told: Told, runs: list[Run]) -> None:
        """An execution without a row was deleted, and does not run any more."""
        if told.deleted_at is not None:
            self._check_no_later_run(told, runs, told.deleted_at, "deleted")
            headers = {HEADER: told.project_id}
            answer = self.stage.service.request("GET", f"/v1/executions/{told.id}", headers=headers)
            if answer.status_code != 404:
                self.problems.append(f"{told.id} was deleted, and is shown: {answer.text}")
        elif not self.stage.functions[told.function_id].is_purged:
            self.problems.append(f"{told.id} was acknowledged and has no row")
        elif not runs:
            self.problems.append(f"{told.id} was deleted after its end, and has not run")

    def _check_no_later_run(self, told: Told, runs: list[Run], at: float, what: str) -> None:
        """No further attempt begins after an execution was cancelled or deleted.

        Only the function of an attempt that a process had claimed before can begin later. There are two cases:

        1. The message that ends the attempt is on its way.
        2. The message was lost with Redis, or with the `web` process that had to send it. Then the function begins as
           soon as the process gets a worker.
        """
        later = [round(run.began - at, 3) for run in runs if run.began > at]
        self.late_starts += len(later)
        may_be_lost = any("redis" in fault or "web" in fault for fault in self.faults)
        if len(later) > 1 or (later and later[0] > (_LONGEST_LATE_S if may_be_lost else _MESSAGE_S)):
            self.problems.append(f"{told.id} was {what}, and runs began {later} s later")

    def _check_row(self, row: Row, runs: list[Run]) -> None:
        kind = self.stage.functions[row.function_id]
        said = f"{row.id} ({row.status}, attempt {row.attempt}, {len(runs)} runs: {row.status_reason})"
        told = self.acknowledged.get(row.id) or Told(row.id, row.function_id, self.stage.projects[row.function_id])
        if row.function_id != told.function_id:
            self.problems.append(f"{said} is of another function")
        if row.project_id != (told.project_id or "default"):
            self.problems.append(f"{said} is of project {row.project_id}")
        if told.deleted_at is not None or kind.is_purged:
            self.problems.append(f"{said} was deleted, and has a row")
        is_cancelled = told.cancelled_at is not None and not told.retried_at
        may_be_cancelled = is_cancelled or row.function_id in self.stage.deleted
        if is_cancelled and row.status != "cancelled":
            self.problems.append(f"{said} was cancelled")
        elif row.status not in (kind.ends[:1] if kind.is_retried else kind.ends) and not may_be_cancelled:
            self.problems.append(f"{said} should have ended as {kind.ends}")
        if is_cancelled:
            assert told.cancelled_at is not None
            self._check_no_later_run(told, runs, told.cancelled_at, "cancelled")
        if not runs and not may_be_cancelled:
            self.problems.append(f"{said} has not run")
        if told.retried_at and not any(run.began > told.retried_at[-1] for run in runs):
            self.problems.append(f"{said} was retried, and has not run again")
        if len(runs) > row.attempt:
            self.problems.append(f"{said} has more runs than attempts")
        shown = row.shown()
        if told.final is not None and told.final != {name: shown[name] for name in told.final}:
            self.problems.append(f"{said} was shown as {told.final}, and is {shown}")
        if told.text_size is not None and row.status == "success" and row.output != told.text_size:
            self.problems.append(f"{said} had a text of {told.text_size}, and its result is {row.output}")
        # The function of a cancelled execution may run on for a moment, while a retry runs already. While the database
        # is away, claims end, and the execution is claimed again.
        overlaps = [one for one in pairwise(runs) if one[0].ended is not None and one[1].began < one[0].ended]
        self.overlaps += len(overlaps)
        if overlaps and told.cancelled_at is None and not _OUTAGES.intersection(self.faults):
            self.problems.append(f"{said}: runs overlap: {runs}")

    def _check_keys(self, rows: list[Row]) -> None:
        """Each idempotency key has exactly one execution, which its caller knows."""
        if not any(told.key for told in self.acknowledged.values()):
            return
        for key, count in Counter((row.project_id, row.description) for row in rows).items():
            if count != 1:
                self.problems.append(f"{key} has {count} executions")
        for row in rows:
            if row.id not in self.acknowledged or self.acknowledged[row.id].key != row.description:
                self.problems.append(f"{row.id} of key {row.description} was not acknowledged")
        stored = dict(self.stage.rows("SELECT idempotency_key, execution_id FROM idempotency_keys"))
        told = {told.key: told.id for told in self.acknowledged.values()}
        if stored != told:
            self.problems.append(f"{len(stored)} keys are stored, and {len(told)} were used")

    def _check_callbacks(self) -> None:
        """Each end that is not `cancelled` was delivered; of an execution that was retried, at least the last one."""
        if self.deliveries is None:
            return
        queued: list[tuple[object, ...]] = []

        def is_empty() -> bool:
            queued[:] = self.stage.rows("SELECT id, not_before, claimed_until, attempt FROM callbacks")
            return not queued

        try:
            wait_until("no callback waits", is_empty, _DELIVERED_WITHIN_S)
        except AssertionError:
            self.problems.append(f"{len(queued)} callbacks are not delivered: {queued[:_MOST_SHOWN]}")
        for row in self._rows():
            told = self.deliveries.ends.get(f"{row.id}-{row.updated_at}")
            if row.status == "cancelled":
                if told is not None:
                    self.problems.append(f"{row.id} was cancelled, and has a callback: {told}")
            elif row.function_id in self.stage.has_callbacks and told != row.status:
                self.problems.append(f"{row.id} has ended as {row.status}, and its callback has told {told}")
        ids = {callback_id.rpartition("-")[0] for callback_id in self.deliveries.ends}
        for execution_id in ids - self.acknowledged.keys():
            self.problems.append(f"a callback tells of {execution_id}, which was not acknowledged")
        self.numbers["callbacks"] = len(self.deliveries.ends)
        self.numbers["callbacks sent again"] = self.deliveries.received.total() - len(self.deliveries.received)

    def _check_counts(self) -> None:
        """Each end of an execution, also of a synchronous one, counts once for its function.

        Executions that were retried have ended several times, and those that were deleted are not there any more.
        """
        sql = "SELECT function_id, count(*) FROM executions WHERE status <> 'running' GROUP BY function_id"
        least: Counter[str] = Counter(dict(self.stage.rows(sql)))
        unclear: Counter[str] = Counter()
        for told in self.acknowledged.values():
            least[told.function_id] += len(told.retried_at) + (told.deleted_at is not None)
            unclear[told.function_id] += told.unclear_retries
        for function_id, count in self.stage.rows("SELECT id, count FROM functions"):
            kind = self.stage.functions.get(function_id)
            is_exact = kind is None or not (kind.is_retried or kind.is_purged)
            most = least[function_id] + unclear[function_id] if is_exact else count
            if not least[function_id] <= count <= most:
                self.problems.append(f"function {function_id} counts {count} executions, not {least[function_id]}")
        ((rows, ended),) = self.stage.rows(
            "SELECT count(*), sum(CASE WHEN status <> 'running' THEN 1 ELSE 0 END) FROM executions WHERE NOT sync"
        )
        ((stored, final),) = self.stage.rows(
            "SELECT sum(accepted) - sum(deleted), sum(ended) - sum(deleted) FROM execution_counters"
        )
        if (rows, ended) != (stored, final):
            self.problems.append(f"{rows} executions are stored, {ended} have ended; counted are {stored}, {final}")

    def _rows(self) -> list[Row]:
        """The asynchronous executions."""
        return [Row(*row) for row in self.stage.rows(f"SELECT {', '.join(Row._fields)} FROM executions WHERE NOT sync")]

    def _check_pool(self) -> None:
        """Redis has no execution and no lease any more, and exactly the workers that have processes."""
        traces = Traces(self.stage.service)
        with self.stage.redis() as connection:
            self.numbers["jobs of drains that wait"] = connection.llen("rq:queue:executions")
        state: dict[str, object] = {}

        def is_at_rest() -> bool:
            with self.stage.redis() as connection:
                state["ready sets"] = sorted(connection.keys(f"{ANCHOR}:ready*"))
                state["leases"] = connection.zrange(f"{ANCHOR}:leases", 0, -1)
                state["journals"] = sorted(connection.keys(f"{ANCHOR}:journal:*"))
                state["waiting"] = {name: n for name, n in connection.hgetall(f"{ANCHOR}:waiting").items() if n != b"0"}
                state["lost"] = connection.exists(keys.LOST)
                difference = connection.scard(keys.WORKERS) - len(traces.workers())
                state["workers that are known and do not live"] = difference
            return not any(state.values())

        try:
            wait_until("the pool is at rest", is_at_rest, _SETTLED_WITHIN_S)
        except AssertionError:
            self.problems += [f"the pool is not at rest: {name}: {what}" for name, what in state.items() if what]

    def _check_service(self) -> None:
        source = "def main(word):\n    return word\n"
        function_id = self.stage.service.function(source)
        for word in "abcd":
            ended = self.stage.service.call(function_id, {"word": word})
            if ended["status"] != "success" or json.loads(ended["result"])["output"] != word:
                self.problems.append(f"a synchronous call ended as {ended}")

    def _runs(self) -> defaultdict[str, list[Run]]:
        runs: defaultdict[str, list[Run]] = defaultdict(list)
        for path in self.stage.counters.iterdir():
            execution_id, began, _ = path.name.split(".")
            ended = path.read_text()
            runs[execution_id].append(Run(int(began) / 1e9, int(ended) / 1e9 if ended else None))
        for of_one in runs.values():
            of_one.sort(key=lambda run: run.began)
        return runs

    def report(self) -> str:
        """The numbers and the problems, one line each."""
        lines = [f"{name}: {value}" for name, value in self.numbers.items()]
        shown = self.problems[:_MOST_SHOWN]
        more = [f"… {len(self.problems) - len(shown)} further problems"] if len(self.problems) > len(shown) else []
        return "\n".join([*lines, *shown, *more])
