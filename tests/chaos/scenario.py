"""Runs a scenario: load, faults, the wait until all executions have ended, and the checks.

The choices of a scenario come from a seed, which is printed. `CHAOS_SEED` repeats the choices of an earlier run: the
functions, the inputs and the verbs of each thread of the load, and the order, the pauses and the victims of the faults.
Which execution a fault hits depends on the machine, too.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests

from tests.chaos.callbacks import Deliveries, receiving
from tests.chaos.faults import Fault, make_plan
from tests.chaos.functions import PROJECTS, Kind
from tests.chaos.hung import Hung
from tests.chaos.load import Load
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage, running_stage
from tests.chaos.timetable import Timetable
from tests.chaos.verbs import Verbs
from tests.chaos.verdict import Verdict
from tests.integration.service import wait_until

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is done to a service.

    Attributes:
        functions: what is called. Empty: the functions of several projects, with callbacks and idempotency keys, while
            callers also cancel, delete, retry and wait for executions.
        executions: how many executions are to be acknowledged.
        load_s: for how long, at least.
        longest_s: the longest time for which an execution sleeps.
        kinds: the faults, as in `Fault.what`.
        faults: how many faults.
        pause_s: the longest pause before a fault.
        settled_s: the deadline for all executions to end, after load and faults.
        workers: how many `worker` processes there are.
        first_backlog: so many executions are queued before the first one runs, and before the first fault.
        senders: so many senders call the first function by a webhook, as fast as they can; 0: callers of the API.
        schedulers: how many `scheduler` processes there are. With them, jobs call the first function.
        hung: so many executions hang from before the load until all of the load have ended.
    """

    functions: Sequence[Kind]
    executions: int
    load_s: float
    longest_s: float
    kinds: Sequence[str] = ()
    faults: int = 0
    pause_s: float = 1.0
    settled_s: float = 120.0
    workers: int = 1
    first_backlog: int = 1
    senders: int = 0
    schedulers: int = 0
    hung: int = 0

    def run(self, *, is_postgres: bool = False, **settings: Any) -> Verdict:
        """Run the scenario in a service of its own, and check what it leaves."""
        seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
        print(f"\nCHAOS_SEED={seed}")
        plan = make_plan(seed, self.kinds, self.faults, self.pause_s)
        parts = {"workers": self.workers, "schedulers": self.schedulers}
        with running_stage(is_postgres=is_postgres, **parts, **settings) as stage:
            try:
                verdict = self._run(stage, plan, seed)
            except BaseException:
                print(stage.service.logs())
                raise
            print(verdict.report())
            if verdict.problems:
                print(stage.service.logs())
                _keep(stage, seed)
        assert not verdict.problems, f"CHAOS_SEED={seed}\n{verdict.report()}"
        return verdict

    def _run(self, stage: Stage, plan: Sequence[Fault], seed: int) -> Verdict:
        if self.functions:
            for kind in self.functions:
                stage.make_function(kind)
            load: Load | Senders | Timetable = Load(stage, self.executions, self.load_s, self.longest_s, seed)
            if self.senders:
                load = Senders(stage, self.senders, self.executions, self.longest_s, seed)
            elif self.schedulers:
                load = Timetable(stage, self.executions, self.load_s, self.longest_s, seed)
            return self._judge(stage, plan, load, None, None)
        with receiving(seed) as deliveries:
            for project, kinds in PROJECTS.items():
                for kind in kinds:
                    stage.make_function(kind, project, deliveries.url)
            verbs = Verbs(stage)
            load = Load(
                stage, self.executions, self.load_s, self.longest_s, seed, has_keys=True, on_accepted=verbs.choose
            )
            return self._judge(stage, plan, load, verbs, deliveries)

    def _judge(
        self,
        stage: Stage,
        plan: Sequence[Fault],
        load: Load | Senders | Timetable,
        verbs: Verbs | None,
        deliveries: Deliveries | None,
    ) -> Verdict:
        began = time.monotonic()
        hung = Hung(stage, self.hung)
        if self.hung:
            stage.start_workers()
            hung.start()
        load.threads.start()
        if verbs is not None:
            verbs.start()

        def check() -> None:
            stage.check_alive()
            load.threads.check()
            if verbs is not None:
                verbs.check()

        def is_queued() -> bool:
            check()
            return len(load.acknowledged) >= self.first_backlog

        def is_accepted() -> bool:
            check()
            return load.is_done

        try:
            wait_until("executions are queued", is_queued, self.settled_s)
            if not self.hung:
                stage.start_workers()
            hit = 0
            for fault in plan:
                fault.inflict(stage)
                hit += bool(_queued(stage))
                check()
            faulted = time.monotonic()
            wait_until("all executions are acknowledged", is_accepted, self.load_s + self.settled_s)
            load.threads.stop()
            accepted = time.monotonic()
            if verbs is not None:
                verbs.complete()
                wait_until("callers have done all", lambda: verbs.is_done, self.settled_s)
        finally:
            try:
                load.threads.stop()
            finally:
                if verbs is not None:
                    verbs.stop()
        if self.hung:
            self._settle(stage, self.hung)
            hung.end()
        self._settle(stage)
        acknowledged = {**hung.acknowledged, **load.acknowledged}
        verdict = Verdict(stage, acknowledged, deliveries, {fault.what for fault in plan})
        verdict.problems += [*hung.problems, *([] if verbs is None else verbs.problems)]
        verdict.numbers |= {
            "faults": len(plan),
            "faults with a queue": hit,
            "requests refused": load.refused,
            "seconds with faults": round(faulted - began, 1),
            "seconds with load": round(accepted - began, 1),
            "seconds until all had ended": round(time.monotonic() - began, 1),
            **({} if verbs is None else verbs.counts.all()),
        }
        verdict.problems += load.problems()
        verdict.check()
        stage.check_alive()
        return verdict

    def _settle(self, stage: Stage, left: int = 0) -> None:
        """Wait until the queue has no more than `left` executions. More of them after the deadline are a problem of the
        verdict.
        """
        deadline = time.monotonic() + self.settled_s
        while _queued(stage) > left and time.monotonic() < deadline:
            stage.check_alive()
            time.sleep(_LOOK_EVERY_S)
        wait_until("the service is ready", lambda: _is_ready(stage), self.settled_s)


def _queued(stage: Stage) -> int:
    return int(stage.rows("SELECT count(*) FROM execution_queue")[0][0])


def _is_ready(stage: Stage) -> bool:
    try:
        return bool(requests.get(f"{stage.service.url}/readyz", timeout=10).status_code == 200)
    except requests.RequestException:
        return False


def _keep(stage: Stage, seed: int) -> None:
    """Keep the logs and the database of a failed run, if `CHAOS_KEEP` names a folder for them."""
    folder = os.environ.get("CHAOS_KEEP")
    if folder:
        shutil.copytree(stage.service.var_dir, f"{folder}/{seed}", ignore=shutil.ignore_patterns("run", "workers"))
