"""Calls to a service in which something is killed, and what must hold when it has come back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import signal
from dataclasses import dataclass

import redis

from qinling_falcon.pool import keys
from qinling_falcon.settings import Settings
from tests.integration.service import wait_until
from tests.run import processes
from tests.run.make_run import MakeRun

BACK_WITHIN_S = 15.0
_LONG_S = 30  # a busy machine may take seconds to kill something in the middle of a call
_HELLO = "def main(name):\n    return 'Hello, ' + name\n"
# The sleeping program shows, from outside, that the call runs, and in which worker.
_SLEEP = "import subprocess\ndef main(seconds):\n    subprocess.run(['sleep', seconds])\n    return 'slept'\n"


@dataclass(frozen=True, slots=True)
class RunningCall:
    """A call in the middle of its run.

    Attributes:
        web: the web process that holds it.
        child: the process in which the function runs.
        program: the program for whose end the function waits.
        answer: the caller's answer: status and body, or the error that the caller sees.
    """

    web: int
    child: int
    program: int
    answer: concurrent.futures.Future[tuple[int, bytes]]

    @property
    def worker_supervisor(self) -> int:
        """The process that looks after the child."""
        return processes.table()[self.child]

    def end(self) -> None:
        """Let the function return."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.program, signal.SIGKILL)


class Chaos:
    """A running service, two functions in it, and all that was asked of it."""

    def __init__(self, service: MakeRun):
        self.service = service
        self._runtime_id = service.runtime()
        self._hello = service.function(_HELLO, timeout=5)
        self._sleeper = service.function(_SLEEP, timeout=2 * _LONG_S)
        self._begun: dict[str, RunningCall] = {}
        self._names = (f"caller {number}" for number in itertools.count())
        self._seconds = (f"{_LONG_S}.{number:06d}" for number in itertools.count(1))

    def begin(self) -> RunningCall:
        """Begin a call that goes on until it is ended, and return when its function runs."""
        seconds = next(self._seconds)
        body = json.dumps({"function_id": self._sleeper, "input": {"seconds": seconds}})
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
        connection.connect()
        client_port = connection.sock.getsockname()[1]

        def call() -> tuple[int, bytes]:
            connection.request("POST", "/v1/executions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()

        pool = concurrent.futures.ThreadPoolExecutor(1)
        answer = pool.submit(call)
        pool.shutdown(wait=False)
        sleeping = wait_until(
            "the function runs",
            lambda: processes.sandboxed_with(self.service.install_id, seconds) or _raise_early(answer),
        )
        running = self._begun[seconds] = RunningCall(
            web=processes.serving(self.service.port, client_port),
            child=processes.table()[sleeping],
            program=sleeping,
            answer=answer,
        )
        return running

    def check_back(self) -> None:
        """Within 15 s: right answers, right capacity, nobody orphaned, and all that was begun recorded as promised."""
        wait_until("right answers", self._answers, BACK_WITHIN_S)
        wait_until("right capacity", self._capacity_is_right, BACK_WITHIN_S)
        wait_until("the pool knows the workers that live", self._pool_knows_who_lives, BACK_WITHIN_S)
        wait_until("all that was begun is recorded as promised", self._all_recorded, BACK_WITHIN_S)
        wait_until("nobody is orphaned", lambda: not self.service.strays(), BACK_WITHIN_S)
        # Not once by chance: every web process, several workers.
        for _ in range(8):
            self.service.http.close()
            assert self._answers()

    def gunicorn_master(self) -> int:
        """Gunicorn's first process."""
        return self.service.pid_of("gunicorn")

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until it is dead."""
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_until("it is dead", lambda: pid not in processes.table())

    def redis(self) -> redis.Redis:
        """The embedded Valkey."""
        return redis.Redis.from_url(Settings(var_dir=self.service.var_dir).effective_redis_url)

    def _answers(self) -> bool:
        name = next(self._names)
        answer = self.service.request(
            "POST", "/v1/executions", json={"function_id": self._hello, "input": {"name": name}}
        )
        if answer.status_code != 201 or answer.json()["status"] != "success":
            return False
        assert json.loads(answer.json()["result"])["output"] == f"Hello, {name}"
        return True

    def _capacity_is_right(self) -> bool:
        answer = self.service.request("GET", f"/v1/runtimes/{self._runtime_id}/pool")
        if answer.status_code != 200:
            return False
        capacity = answer.json()["capacity"]
        return bool(capacity["total"] == self.service.workers_alive() and capacity["available"] == 2)

    def _pool_knows_who_lives(self) -> bool:
        """One that is gone would take a place among the most workers that there may be, for ever."""
        with self.redis() as connection:
            known = {worker.decode() for worker in connection.smembers(keys.WORKERS)}
        return self.service.lives_exactly(known)

    def _all_recorded(self) -> bool:
        answer = self.service.request("GET", f"/v1/executions?function_id={self._sleeper}")
        if answer.status_code != 200:
            return False
        rows = {json.loads(row["input"])["seconds"]: row for row in answer.json()}
        assert len(rows) == len(answer.json()), "a call was recorded twice"
        return rows.keys() == self._begun.keys() and all(
            _is_as_promised(rows[seconds], outcome(call)) for seconds, call in self._begun.items()
        )


def _raise_early(answer: concurrent.futures.Future[tuple[int, bytes]]) -> int:
    """0, unless the call has ended already, which it must not."""
    assert not answer.done(), answer.result()
    return 0


def outcome(call: RunningCall) -> dict[str, str] | None:
    """The execution that the caller was given, or None when there was no such answer."""
    try:
        status, body = call.answer.result(60)
    except (OSError, http.client.HTTPException):
        return None
    return dict(json.loads(body)) if status == 201 else None


def _is_as_promised(row: dict[str, str], told: dict[str, str] | None) -> bool:
    """Whether an execution is recorded as its caller was told.

    A caller without an answer was told nothing. The execution is then lost, or its real result was committed before.
    """
    if told is not None:
        return all(row[name] == told[name] for name in ("id", "status", "status_reason", "result"))
    if row["status"] == "error":
        return "may have run" in row["status_reason"]
    return row["status"] == "success" and bool(json.loads(row["result"])["output"] == "slept")
