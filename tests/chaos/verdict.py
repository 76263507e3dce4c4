"""Checks what must hold when all faults are over and the queue is empty."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from qinling_falcon.pool import keys
from qinling_falcon.pool.lua import ANCHOR
from tests.chaos.stage import Stage
from tests.integration.service import wait_until
from tests.soak.traces import Traces

_SETTLED_WITHIN_S = 60.0
_MOST_SHOWN = 8


class Run(NamedTuple):
    """A run of a function, as it has counted itself: when it began and ended, in seconds; no end: it was killed."""

    began: float
    ended: float | None


@dataclass
class Verdict:
    """The state of a service after chaos, and what is wrong with it.

    Attributes:
        problems: one line each.
        numbers: what happened how often, for the report.
    """

    stage: Stage
    acknowledged: dict[str, str]
    problems: list[str] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)

    def check(self) -> None:
        """Fill `problems` and `numbers`."""
        self._check_executions()
        self._check_counts()
        self._check_pool()
        self._check_service()

    def _check_executions(self) -> None:
        rows = self.stage.rows("SELECT id, function_id, status, attempt, status_reason FROM executions WHERE NOT sync")
        runs = self._runs()
        known = {row[0] for row in rows}
        if len(known) != len(rows):
            self.problems.append("executions have several rows")
        for execution_id in self.acknowledged.keys() - known:
            self.problems.append(f"{execution_id} was acknowledged and has no row")
        for execution_id in runs.keys() - known:
            self.problems.append(f"{execution_id} has run and has no row")
        for execution_id, function_id, status, attempt, reason in rows:
            said = f"{execution_id} ({status}, attempt {attempt}, {len(runs[execution_id])} runs: {reason})"
            if function_id != self.acknowledged.get(execution_id, function_id):
                self.problems.append(f"{said} is of another function")
            is_cancelled = status == "cancelled" and function_id in self.stage.deleted
            if status not in self.stage.functions[function_id].ends and not is_cancelled:
                self.problems.append(f"{said} should have ended as {self.stage.functions[function_id].ends}")
            if not runs[execution_id] and not is_cancelled:
                self.problems.append(f"{said} has not run")
            if len(runs[execution_id]) > attempt:
                self.problems.append(f"{said} has more runs than attempts")
            for earlier, later in pairwise(runs[execution_id]):
                if earlier.ended is not None and later.began < earlier.ended:
                    self.problems.append(f"{said}: runs overlap: {runs[execution_id]}")
        queued = self.stage.rows("SELECT id, not_before, claimed_until, attempt FROM execution_queue")
        if queued:
            self.problems.append(f"the queue still has {len(queued)} rows: {queued[:_MOST_SHOWN]}")
        self.numbers |= {
            "executions": len(rows),
            "acknowledged": len(self.acknowledged),
            "statuses": dict(Counter(row[2] for row in rows)),
            "attempts": dict(Counter(row[3] for row in rows)),
            "runs": dict(Counter(len(runs[row[0]]) for row in rows)),
        }

    def _check_counts(self) -> None:
        """Each final execution, synchronous ones too, counts once for its function."""
        sql = "SELECT function_id, count(*) FROM executions WHERE status <> 'running' GROUP BY function_id"
        ended = dict(self.stage.rows(sql))
        for function_id, count in self.stage.rows("SELECT id, count FROM functions"):
            if count != ended.get(function_id, 0):
                self.problems.append(
                    f"function {function_id} counts {count} executions, and {ended.get(function_id, 0)} have ended"
                )

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
