"""Waiting calls of one function leave connections, places and memory to all other requests."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from qinling_falcon.setting_fields import MIB
from tests.integration.held_calls import QUICK, SLOW, SOON_S, calls_of, running, waiting
from tests.integration.service import running_service, wait_until


def memory_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) // 1024


def test_waiting_calls_keep_no_other_request_out() -> None:
    """The limits of function and project would allow all connections; the limit of the process applies."""
    with running_service(
        web_concurrency=1, web_connections=60, max_workers=6, function_concurrency=2, function_queue_factor=100,
        project_queue_factor=100, invoke_queue_timeout_s=60,
    ) as service:  # fmt: skip
        slow, quick = service.function(SLOW, timeout=70), service.function(QUICK)
        service.call(quick)
        with calls_of(service, slow) as calls:
            calls.send(2)
            wait_until("two run", lambda: running(service, slow) == 2)
            calls.send(118)

            wait_until("all but the bound are refused", lambda: calls.refused(120 - 15))

            for answer in calls.answers:
                assert (answer.status, answer.retry_after) == (503, "1")
                assert "WEB_CONNECTIONS" in answer.message
            began = time.monotonic()
            for path in ("/healthz", "/readyz", "/v1/functions"):
                assert service.request("GET", path).status_code == 200
            assert service.call(quick)["status"] == "success"
            assert time.monotonic() - began < SOON_S
            wait_until("the others wait in the queue", lambda: waiting(service, slow) == 15 - 2)


def test_the_queue_of_one_function_keeps_no_other_function_out() -> None:
    with running_service(max_workers=6, function_concurrency=2, invoke_queue_timeout_s=60) as service:
        slow, quick = service.function(SLOW, timeout=70), service.function(QUICK)
        with calls_of(service, slow) as calls:
            calls.send(2)
            wait_until("two run", lambda: running(service, slow) == 2)
            calls.send(98)

            wait_until("all but the bounds are refused", lambda: calls.refused(100 - 2 - 6))

            for answer in calls.answers:
                assert answer.status == 503
                assert slow in answer.message and "FUNCTION_QUEUE_FACTOR" in answer.message
            assert waiting(service, slow) == 6
            began = time.monotonic()
            assert service.call(quick)["status"] == "success"
            assert time.monotonic() - began < SOON_S


def test_calls_that_waited_in_a_killed_process_are_counted_no_more() -> None:
    with running_service(
        web_concurrency=1, max_workers=4, function_concurrency=2, function_queue_factor=30, project_queue_factor=30,
        invoke_queue_timeout_s=120, holder_ttl_s=3,
    ) as service:  # fmt: skip
        slow = service.function(SLOW, timeout=70)
        with calls_of(service, slow) as calls:
            calls.send(50)
            wait_until("they wait", lambda: waiting(service, slow) == 48)

            for pid in service.web_processes():
                os.kill(pid, signal.SIGKILL)

            wait_until("none is counted", lambda: waiting(service, slow) == 0)


def test_a_call_whose_client_has_gone_leaves_the_queue_when_its_time_is_over() -> None:
    with running_service(max_workers=4, function_concurrency=1, invoke_queue_timeout_s=3) as service:
        slow = service.function(SLOW, timeout=70)
        with calls_of(service, slow) as calls:
            calls.send(4)
            wait_until("they wait", lambda: waiting(service, slow) == 3)

        assert waiting(service, slow) == 3
        wait_until("none waits", lambda: waiting(service, slow) == 0)


def test_waiting_inputs_take_bounded_memory() -> None:
    """Each input takes 4 MiB, because one wide character makes all characters of a Python string wide."""
    with running_service(web_concurrency=1, max_workers=2, invoke_queue_timeout_s=60) as service:
        slow = service.function(SLOW, timeout=70, memory_size=128 * MIB)
        [web] = service.web_processes()
        before = memory_mib(web)
        with calls_of(service, slow) as calls:
            for _ in range(80):
                calls.send(1, "x" * (MIB - 4) + "\U0001f600")
                calls.read()

            wait_until("all but the bound are refused", lambda: calls.refused(80 - 3))

            assert {answer.status for answer in calls.answers} == {503}
            assert "MAX_HELD_INPUT_SIZE" in calls.answers[-1].message
            assert memory_mib(web) - before < 150, memory_mib(web)
