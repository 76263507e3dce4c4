"""What tests of failures in the pool share: calls that end when a test says so, and what must hold after a failure."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import redis
import requests

from qinling_falcon.pool.lua import ANCHOR
from tests.integration.held_calls import QUICK
from tests.integration.service import Service, running_service, wait_until
from tests.run import processes
from tests.servers.valkey_proxy import ValkeyProxy, valkey_proxy

# A test ends the program `sleep`, and the function returns.
SLEEPER = "import subprocess\ndef main(seconds):\n    subprocess.run(['sleep', seconds])\n    return 'slept'\n"
NO_TIME = {"seconds": "0"}

# Far above HOLDER_TTL_S of these tests, the expiry of an offer, and a start.
_SETTLED_WITHIN_S = 30.0
_OF_CALLS = ("journal:", "entries:", "queue:", "counts:", "escalated:", "blocked:")

class Calls:
    """Calls that run beside a test, each on its own connection."""

    def __init__(self, service: Service, threads: ThreadPoolExecutor):
        self._service = service
        self._threads = threads

    def begin(self, function_id: str, input: Any = None) -> Future[requests.Response]:
        """Begin a call, and do not wait for it."""
        body = {"function_id": function_id, "input": input}
        return self._threads.submit(requests.post, f"{self._service.url}/v1/executions", json=body, timeout=60)

    def begin_sleep(self, function_id: str) -> Sleep:
        """Begin a call of a `SLEEPER`, and wait until it runs in its worker."""
        seconds = f"250.{secrets.randbelow(10**12):012d}"  # no other test on this machine has the same
        sleep = Sleep(seconds, self.begin(function_id, {"seconds": seconds}))
        wait_until("the function runs", lambda: sleep.program() or sleep.answer.done())
        return sleep


class Sleep:
    """A running call of a `SLEEPER`."""

    def __init__(self, seconds: str, answer: Future[requests.Response]):
        self.answer = answer
        self._seconds = seconds

    def program(self) -> int:
        """The program in which the function waits; 0 if it does not."""
        return processes.with_last_word(self._seconds)

    def end(self) -> None:
        """Let the function return."""
        if program := self.program():
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)


@contextlib.contextmanager
def calls_beside(service: Service) -> Iterator[Calls]:
    """A `Calls`; at the end, all of its calls have ended."""
    with ThreadPoolExecutor(8) as threads:
        yield Calls(service, threads)


@contextlib.contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process stands still meanwhile."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def kill_web(service: Service) -> None:
    """Kill the web processes. Gunicorn starts other ones."""
    for pid in service.web_processes():
        os.kill(pid, signal.SIGKILL)


def has_no_answer(call: Future[requests.Response]) -> bool:
    """Whether the connection of a call broke."""
    return isinstance(call.exception(), requests.ConnectionError)


def status_of(call: Future[requests.Response]) -> str:
    """The status of the execution that a call was answered with; or, of another answer, its HTTP status."""
    answer = call.result()
    return str(answer.json()["status"]) if answer.status_code == 201 else str(answer.status_code)


def output_of(execution: dict[str, Any]) -> Any:
    return json.loads(execution["result"])["output"]


def workers_of(service: Service, function_id: str) -> list[dict[str, Any]]:
    """The workers of a function, as `/v1/pool/workers` shows them."""
    rows = service.request("GET", "/v1/pool/workers?limit=100").json()
    return [row for row in rows if row["function_id"] == function_id]


def events_of(service: Service, function_id: str) -> set[str]:
    """What has happened to workers of a function."""
    rows = service.request("GET", "/v1/pool/events?limit=1000").json()
    return {row["event"] for row in rows if row["function_id"] == function_id}


class PoolRecords:
    """The pool's records in Redis."""

    def __init__(self, url: str):
        self._redis = redis.Redis.from_url(url, decode_responses=True)

    def close(self) -> None:
        self._redis.close()

    def executions(self) -> set[str]:
        """Executions that are in a journal."""
        journals = list(self._redis.scan_iter(f"{ANCHOR}:journal:*"))
        return {execution for journal in journals for execution in self._redis.hkeys(journal)}

    def escalated(self) -> bool:
        """Whether a process wants one more worker."""
        return any(self._redis.scan_iter(f"{ANCHOR}:escalated:*"))

    def of_calls(self) -> dict[str, Any]:
        """Leases, journals, entries in queues, and the counts of them. Empty if nothing runs or waits."""
        found: dict[str, Any] = {}
        for key in self._redis.scan_iter(f"{ANCHOR}:*"):
            name = key.removeprefix(f"{ANCHOR}:")
            if name in ("leases", "lost") or name.startswith(_OF_CALLS):
                found[name] = self._redis.type(key)
        for name in ("waiting", "concurrency"):
            for field, count in self._redis.hgetall(f"{ANCHOR}:{name}").items():
                if count != "0" and not field.startswith(("limit ", "own ")):
                    found[f"{name}: {field}"] = count
        return found


@contextlib.contextmanager
def pool_records(service: Service) -> Iterator[PoolRecords]:
    """The records of a running service."""
    records = PoolRecords(service.environ["REDIS_URL"])
    try:
        yield records
    finally:
        records.close()


@dataclass(frozen=True, slots=True)
class Proxied:
    """A service whose web processes reach Redis through a proxy, and its records in Redis."""

    service: Service
    proxy: ValkeyProxy
    records: PoolRecords


@contextlib.contextmanager
def proxied_service(web_concurrency: int) -> Iterator[Proxied]:
    """A running service with one worker."""
    limits = {"max_workers": 1, "warm_workers": 1, "function_concurrency": 4, "project_concurrency": 4}
    times = {"holder_ttl_s": 3, "reap_interval_s": 0.3, "invoke_queue_timeout_s": 20}
    with (
        running_service(web_concurrency=web_concurrency, **limits, **times) as service,
        valkey_proxy(service.environ["REDIS_URL"]) as proxy,
        pool_records(service) as records,
    ):
        service.runtime()
        service.stop("web")
        environ, service.environ = service.environ, service.environ | {"REDIS_URL": proxy.url}
        service.start_web()
        service.environ = environ
        wait_until("web is back", lambda: service.request("GET", "/readyz").status_code == 200)
        try:
            yield Proxied(service, proxy, records)
        finally:
            service.stop("web")


def check_settled(service: Service, records: PoolRecords, function_id: str, statuses: dict[str, int]) -> None:
    """Check what must hold some time after a failure.

    1. Each execution that was begun is recorded once, with a final status. `statuses` has how many of each there are.
    2. Redis has no lease, journal, entry or count of a call.
    3. The service serves a new function.
    """

    def rows() -> list[dict[str, Any]]:
        answer = service.request("GET", f"/v1/executions?function_id={function_id}")
        return list(answer.json()) if answer.status_code == 200 else []

    def is_settled() -> bool:
        return Counter(row["status"] for row in rows()) == statuses and not records.of_calls()

    with contextlib.suppress(AssertionError):  # what differs says more
        wait_until("all is settled", is_settled, _SETTLED_WITHIN_S)
    found = rows()
    assert Counter(row["status"] for row in found) == statuses, found
    assert records.of_calls() == {}
    function = service.request("GET", f"/v1/functions/{function_id}")
    if function.status_code == 200:
        assert function.json()["count"] == len(found), "an execution was recorded twice"
    assert service.call(service.function(QUICK))["status"] == "success"
    assert service.request("GET", "/readyz").status_code == 200
