"""Faults, and plans of them that a seed determines."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.stage import Stage

_LONGEST_AWAY_S = 3.0
_LONGEST_FROZEN_OF_CLAIM = 2.0  # a multiple of a claim, and so beyond the lease of a silent process, too
_LONGER_THAN_CLAIM_S = 1.0
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan.

    Attributes:
        what: `kill NAME` (SIGKILL), `stop NAME` (SIGTERM) and `freeze NAME` (SIGSTOP, later SIGCONT), where NAME is a
            process: `worker`, `tasks`, `scheduler`, `web` (Gunicorn's master), `pool`; `kill web child`; `restart
            redis`, `wipe redis` (FLUSHALL), `lose redis` (it restarts without its data); `restart postgres`; `stop
            postgres` (it is away for longer than a claim); `suspend database` (it does not answer for longer than a
            claim); `change function` (it gets a new package); `delete function`.
        after_s: seconds after the fault before it and its consequences.
        choice: chooses the process where there are several, and for how long a server is away; from 0 to 1.
    """

    what: str
    after_s: float
    choice: float

    def inflict(self, stage: Stage) -> None:
        """Wait, and do it."""
        time.sleep(self.after_s)
        away_s = self.choice * _LONGEST_AWAY_S
        match self.what.split():
            case ["kill", "web", "child"]:
                stage.kill_a_web_process(self.choice)
            case ["restart", "postgres"]:
                stage.restart_postgres(away_s)
            case ["stop", "postgres"]:
                stage.restart_postgres(stage.claim_s + _LONGER_THAN_CLAIM_S + away_s)
            case ["suspend", "database"]:
                stage.suspend_database(stage.claim_s + _LONGER_THAN_CLAIM_S + away_s)
            case ["kill" | "stop" | "freeze" as how, name]:
                self._signal(stage, how, name)
            case ["restart", "redis"]:
                stage.restart_redis(away_s, keeps_data=True)
            case ["lose", "redis"]:
                stage.restart_redis(away_s, keeps_data=False)
            case ["wipe", "redis"]:
                with stage.redis() as connection:
                    connection.flushall()
            case ["change", "function"]:
                stage.change_function(self.choice)
            case ["delete", "function"]:
                stage.delete_function(self.choice)
            case _:
                raise ValueError(self.what)

    def _signal(self, stage: Stage, how: str, name: str) -> None:
        names = {"worker": stage.worker_names, "scheduler": stage.scheduler_names}.get(name, [name])
        name = names[int(self.choice * len(names))]
        if how == "freeze":
            stage.signal(name, signal.SIGSTOP)
            time.sleep(self.choice * _LONGEST_FROZEN_OF_CLAIM * stage.claim_s)
            stage.signal(name, signal.SIGCONT)
            return
        pid = stage.pid(name)
        stage.signal(name, _SIGNALS[how])
        stage.wait_started(name, pid)


def make_plan(seed: int, kinds: Sequence[str], count: int, longest_pause_s: float) -> list[Fault]:
    """A plan of faults: each kind equally often, in random order, with random pauses.

    Args:
        seed: the same seed makes the same plan.
        kinds: what may happen, as in `Fault.what`.
        count: how many faults.
        longest_pause_s: the longest pause before each of them.
    """
    choices = random.Random(seed)
    chosen = [kinds[number % len(kinds)] for number in range(count)]
    choices.shuffle(chosen)
    return [Fault(what, round(choices.uniform(0, longest_pause_s), 3), choices.random()) for what in chosen]
