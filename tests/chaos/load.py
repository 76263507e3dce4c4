"""Asynchronous executions from several threads, also while the service is away for moments."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import requests

from tests.chaos.stage import Stage

_THREADS = 4
_PAUSE_S = 0.05
_TIMEOUT_S = 20.0


@dataclass
class Load:
    """Has executions accepted, until there are `most`.

    Only an answer with status 201 acknowledges an execution. Without one, the execution may exist or not.

    Attributes:
        stage: the service and the functions that are called.
        most: how many executions are to be acknowledged.
        for_s: about how long that takes, at least.
        longest_s: the longest time for which an execution sleeps.
        seed: chooses functions and inputs.
        acknowledged: the function of each acknowledged execution, by execution.
        refused: how many requests had another answer or none.
    """

    stage: Stage
    most: int
    for_s: float
    longest_s: float
    seed: int
    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._call_on, args=(number,)) for number in range(_THREADS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        """Whether all executions are acknowledged."""
        return len(self.acknowledged) >= self.most

    def stop(self) -> None:
        """End the threads. Raises what has ended one of them."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _call_on(self, number: int) -> None:
        choices = random.Random(f"{self.seed}/{number}")
        weights = {function_id: kind.weight for function_id, kind in self.stage.functions.items()}
        pause_s = self.for_s * _THREADS / self.most
        try:
            with requests.Session() as http:
                while not self._stopping.is_set() and not self.is_done:
                    function_id = choices.choices(list(weights), weights.values())[0]
                    seconds = round(choices.uniform(0, self.longest_s), 4)
                    self._stopping.wait(choices.uniform(0, 2 * pause_s))
                    if not self._call(http, function_id, seconds):
                        del weights[function_id]
        except BaseException as error:
            self._failures.append(error)

    def _call(self, http: requests.Session, function_id: str, seconds: float) -> bool:
        """Call a function. Returns whether it exists."""
        body = {"function_id": function_id, "sync": False, "input": {"seconds": seconds}}
        is_gone = False
        try:
            answer = http.post(f"{self.stage.service.url}/v1/executions", json=body, timeout=_TIMEOUT_S)
            is_accepted = answer.status_code == 201
            is_gone = answer.status_code == 404 and function_id in self.stage.deleted
            assert is_accepted or is_gone or answer.status_code >= 500, answer.text
            execution = answer.json() if is_accepted else {}
        except requests.RequestException:  # also a body that was cut off
            is_accepted = False
        if not is_accepted:
            with self._lock:
                self.refused += 1
            time.sleep(_PAUSE_S)
            return not is_gone
        with self._lock:
            assert execution["id"] not in self.acknowledged
            self.acknowledged[execution["id"]] = function_id
        return True
