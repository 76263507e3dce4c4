"""Asynchronous executions from several threads, also while the service is away for moments."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.caller import Answer, Caller
from tests.chaos.functions import Kind
from tests.chaos.ledger import Told
from tests.chaos.stage import Stage
from tests.chaos.threads import Threads

_THREADS = 4
_PAUSE_S = 0.05
_REPEATED = 0.1  # of the requests with a key, this part is sent once more after its answer


@dataclass
class Load:
    """Has executions accepted, until there are `most`.

    Only an answer with status 201 acknowledges an execution. Without one, the execution may exist or not. If requests
    have idempotency keys, each one is repeated until it is answered, so there is exactly one execution for each.

    Attributes:
        stage: the service and the functions that are called.
        most: how many executions are to be acknowledged.
        for_s: about how long that takes, at least.
        longest_s: the longest time for which an execution sleeps.
        seed: chooses functions and inputs.
        has_keys: whether requests have idempotency keys.
        on_accepted: is called for each acknowledged execution, with the random numbers of its thread.
        acknowledged: what was told about each acknowledged execution, by execution.
        refused: how many requests had another answer or none.
        threads: the callers.
    """

    stage: Stage
    most: int
    for_s: float
    longest_s: float
    seed: int
    has_keys: bool = False
    on_accepted: Callable[[Told, random.Random], None] | None = None
    acknowledged: dict[str, Told] = field(default_factory=dict)
    refused: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.threads = Threads(_THREADS, self._call_on)

    @property
    def is_done(self) -> bool:
        """Whether all executions are acknowledged."""
        return len(self.acknowledged) >= self.most

    def problems(self) -> list[str]:
        """Nothing: the verdict knows what must hold for this load."""
        return []

    def _call_on(self, number: int) -> None:
        choices = random.Random(f"{self.seed}/{number}")
        weights = {function_id: kind.weight for function_id, kind in self.stage.functions.items()}
        callers = {project: Caller(self.stage.service.url, project) for project in set(self.stage.projects.values())}
        pause_s = self.for_s * _THREADS / self.most
        calls = 0
        try:
            while not self.threads.stopping.is_set() and not self.is_done:
                function_id = choices.choices(list(weights), list(weights.values()))[0]
                told = Told("", function_id, self.stage.projects[function_id])
                told.key = f"{self.seed}-{number}-{calls}" if self.has_keys else ""
                calls += 1
                body = _body(told, self.stage.functions[function_id], choices, self.longest_s)
                is_repeated = choices.random() < _REPEATED
                self.threads.stopping.wait(choices.uniform(0, 2 * pause_s))
                if not self._call(callers[told.project_id], told, body, is_repeated=is_repeated):
                    del weights[function_id]
                elif told.id and self.on_accepted is not None:
                    self.on_accepted(told, choices)
        finally:
            for caller in callers.values():
                caller.close()

    def _call(self, caller: Caller, told: Told, body: dict[str, Any], *, is_repeated: bool) -> bool:
        """Call a function. Returns whether it exists."""
        if told.key:
            answer = self._insist(caller, told.key, body)
            if is_repeated:
                again = self._insist(caller, told.key, body)
                assert again.json["id"] == answer.json["id"], f"{told.key} has two executions"
        else:
            sent = caller.try_once("POST", "/v1/executions", json=body)
            if sent is None or (sent.status == 404 and told.function_id in self.stage.deleted):
                with self._lock:
                    self.refused += 1
                time.sleep(_PAUSE_S)
                return sent is None
            answer = sent
        assert answer.status == 201, answer.text
        told.id = answer.json["id"]
        with self._lock:
            assert told.id not in self.acknowledged
            self.acknowledged[told.id] = told
        return True

    def _insist(self, caller: Caller, key: str, body: dict[str, Any]) -> Answer:
        answer = caller.insist("POST", "/v1/executions", (201,), json=body, headers={"Idempotency-Key": key})
        with self._lock:
            self.refused += answer.unanswered
        return answer


def _body(told: Told, kind: Kind, choices: random.Random, longest_s: float) -> dict[str, Any]:
    input: dict[str, Any] = {"seconds": round(choices.uniform(0, longest_s), 4)}
    if kind.text_size is not None:
        told.text_size = choices.randint(*kind.text_size)
        input["text"] = "x" * told.text_size
    body = {"function_id": told.function_id, "sync": False, "input": input}
    return body | ({"description": told.key} if told.key else {})
