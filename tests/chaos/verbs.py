"""Callers who cancel, delete, retry and wait for executions, while these are queued or run."""

from __future__ import annotations

import queue
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.chaos.caller import Caller
from tests.chaos.functions import Kind
from tests.chaos.ledger import Counts, Told
from tests.chaos.stage import Stage

_WAIT_S = 30
_ANSWERED_WITHIN_S = 15.0  # after the wait
_LONGEST_DELAY_S = 5.0
_BULK_EVERY_S = 1.0
_LOOK_EVERY_S = 0.1
# A retry of a cancelled execution is refused with this text while its function runs, which ends within the time.
_NOT_ENDED = "has not ended yet"
_ENDS_WITHIN_S = 60.0
# These act at once, or wait for the end of an execution.
_QUICK, _SLOW = 4, 16
_STAYS = ("status", "status_reason", "result", "attempt", "updated_at")
_STATUS = re.compile(r"its status is (\w+)")
_OF_GOOD = {"nothing": 60, "cancel": 14, "delete": 9, "cancel and retry": 5, "wait": 12}
_OF_FAILING = {"nothing": 40, "cancel": 10, "delete": 5, "retry": 40, "wait": 5}


@dataclass
class Verbs:
    """Does at most one thing to each execution, so that it is known how the execution must end.

    Attributes:
        stage: the service.
        counts: what happened.
        problems: answers that must not be, one line each.
    """

    stage: Stage
    counts: Counts = field(default_factory=Counts)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._quick: queue.PriorityQueue[tuple[float, str, str, Told]] = queue.PriorityQueue()
        self._slow: queue.PriorityQueue[tuple[float, str, str, Told]] = queue.PriorityQueue()
        self._is_complete = threading.Event()
        self._is_stopping = False
        self._failures: list[BaseException] = []
        self._does: dict[str, Callable[[Caller, Told], None]] = {
            "cancel": self._cancel,
            "delete": self._delete,
            "cancel and retry": self._cancel_and_retry,
            "wait": self._wait,
            "retry": self._retry,
        }
        self._threads = [threading.Thread(target=self._serve, args=(self._quick,)) for _ in range(_QUICK)]
        self._threads += [threading.Thread(target=self._serve, args=(self._slow,)) for _ in range(_SLOW)]

    def start(self) -> None:
        for function_id, kind in self.stage.functions.items():
            if kind.is_retried or kind.is_purged:
                self._threads.append(threading.Thread(target=self._change_all, args=(function_id, kind)))
        for thread in self._threads:
            thread.start()

    def choose(self, told: Told, choices: random.Random) -> None:
        """Choose what is done to an execution, and when."""
        kind = self.stage.functions[told.function_id]
        chances = _OF_GOOD if "success" in kind.ends else _OF_FAILING
        if kind.is_retried or kind.is_purged:
            chances = {"nothing": 1}
        what = choices.choices(list(chances), list(chances.values()))[0]
        due = time.monotonic() + choices.uniform(0, _LONGEST_DELAY_S) * choices.randint(0, 1)
        if what in ("wait", "retry"):
            self._slow.put((due, told.id, what, told))
        elif what != "nothing":
            self._quick.put((due, told.id, what, told))

    def check(self) -> None:
        """Raise what has ended one of the threads."""
        if self._failures:
            raise self._failures[0]

    def complete(self) -> None:
        """No more executions will come: the threads end when nothing is left to do."""
        self._is_complete.set()

    @property
    def is_done(self) -> bool:
        """Whether all threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End the threads. Raises what has ended one of them."""
        self._is_stopping = True
        self.complete()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self.check()

    def _serve(self, wanted: queue.PriorityQueue[tuple[float, str, str, Told]]) -> None:
        callers = {project: Caller(self.stage.service.url, project) for project in set(self.stage.projects.values())}
        try:
            while not self._is_stopping:
                is_complete = self._is_complete.is_set()
                try:
                    due, _, what, told = wanted.get(timeout=_LOOK_EVERY_S)
                except queue.Empty:
                    if is_complete:
                        return
                    continue
                while (left_s := due - time.monotonic()) > 0 and not self._is_stopping:
                    time.sleep(min(left_s, _LOOK_EVERY_S))
                self._does[what](callers[told.project_id], told)
        except BaseException as error:
            self._failures.append(error)
        finally:
            for caller in callers.values():
                caller.close()

    def _cancel(self, caller: Caller, told: Told) -> None:
        answer = caller.insist("PUT", f"/v1/executions/{told.id}", (202, 409), json={"status": "cancelled"})
        if answer.status == 202:
            assert answer.json["status"] == "cancelled", answer.text
            told.cancelled_at = time.monotonic()
            self.counts.add("cancelled")
            return
        status = _STATUS.search(answer.text)
        assert status is not None, answer.text
        told.final = {"status": status[1]}
        self.counts.add("not cancelled")

    def _delete(self, caller: Caller, told: Told) -> None:
        answer = caller.insist("DELETE", f"/v1/executions/{told.id}", (204, 404))
        told.deleted_at = time.monotonic()
        self._expect(answer.status == 204 or answer.unanswered > 0, f"{told.id} was not deleted, and is not found")
        shown = caller.insist("GET", f"/v1/executions/{told.id}", (200, 404))
        self._expect(shown.status == 404, f"{told.id} was deleted, and is shown: {shown.text}")
        self.counts.add("deleted")

    def _cancel_and_retry(self, caller: Caller, told: Told) -> None:
        self._cancel(caller, told)
        if told.final is None:
            self._queue_again(caller, told)

    def _retry(self, caller: Caller, told: Told) -> None:
        """Wait for the end, retry, and wait for the end once more."""
        ended = self._end_of(caller, told)
        if ended is None:
            return
        if ended["status"] not in ("failed", "dead"):
            told.final = ended
            return
        self._queue_again(caller, told)
        told.final = self._end_of(caller, told)

    def _queue_again(self, caller: Caller, told: Told) -> None:
        until = time.monotonic() + _ENDS_WITHIN_S
        while True:
            began = time.monotonic()
            answer = caller.insist("POST", f"/v1/executions/{told.id}/retry", (202, 409))
            told.unclear_retries += answer.unanswered
            if _NOT_ENDED not in answer.text or time.monotonic() >= until:
                break
            self.counts.add("retries before the function had ended")
            time.sleep(_LOOK_EVERY_S)
        is_right = answer.status == 202 or told.unclear_retries > 0
        self._expect(is_right, f"{told.id} was not retried: {answer.text}")
        told.retried_at.append(began)
        self.counts.add("retried")

    def _wait(self, caller: Caller, told: Told) -> None:
        told.final = self._end_of(caller, told)

    def _end_of(self, caller: Caller, told: Told) -> dict[str, Any] | None:
        """How an execution has ended. None: the test ends before."""
        while not self._is_stopping:
            began = time.monotonic()
            try:
                path = f"/v1/executions/{told.id}?wait={_WAIT_S}"
                answer = caller.send("GET", path, timeout_s=_WAIT_S + _ANSWERED_WITHIN_S)
            except requests.ReadTimeout:
                self._expect(False, f"a request that waits for {told.id} was not answered")
                return None
            if answer is None:
                self.counts.add("waits that broke")
                time.sleep(_LOOK_EVERY_S)
                continue
            assert answer.status == 200, f"{told.id}: {answer.status} {answer.text}"
            if answer.json["status"] != "running":
                self.counts.add("waits that saw the end")
                return {name: answer.json[name] for name in _STAYS}
            took_s = time.monotonic() - began
            self._expect(took_s > _WAIT_S - 1, f"a request that waits was answered after {took_s} s: {answer.text}")
            self.counts.add("waits that were over before the end")
        return None

    def _expect(self, is_right: bool, problem: str) -> None:
        if not is_right:
            self.problems.append(problem)

    def _change_all(self, function_id: str, kind: Kind) -> None:
        """Retry or delete all executions of a function that have failed, again and again, until there are no more."""
        caller = Caller(self.stage.service.url, self.stage.projects[function_id])
        status = kind.ends[-1]
        try:
            while not self._is_stopping:
                is_complete = self._is_complete.is_set()
                if kind.is_purged:
                    answer = caller.insist("DELETE", f"/v1/executions?status={status}", (200,))
                else:
                    body = {"status": status, "function_id": function_id}
                    answer = caller.insist("POST", "/v1/executions/retry", (200,), json=body)
                for _ in range(answer.json["count"]):
                    self.counts.add("deleted with others" if kind.is_purged else "retried with others")
                if is_complete and not any(
                    caller.insist("GET", f"/v1/executions?function_id={function_id}&status={left}&limit=1", (200,)).json
                    for left in ("running", status)
                ):
                    return
                time.sleep(_BULK_EVERY_S)
        except BaseException as error:
            self._failures.append(error)
        finally:
            caller.close()
