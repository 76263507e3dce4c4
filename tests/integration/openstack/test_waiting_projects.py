"""Waiting calls of one project leave connections and places in the queue to another project."""

from __future__ import annotations

import contextlib
import time

from tests.integration.held_calls import QUICK, SLOW, SOON_S, calls_of, waiting
from tests.integration.service import running_service, wait_until
from tests.servers.openstack import Keystone


def test_the_waiting_calls_of_one_project_keep_no_other_project_out(keystone: Keystone) -> None:
    """Alice has six functions, and the limit of each one alone would allow as many waiting calls as connections."""
    with contextlib.ExitStack() as held:
        service = held.enter_context(
            running_service(
                **keystone.settings(), web_concurrency=1, web_connections=60, max_workers=8, function_concurrency=2,
                project_concurrency=4, function_queue_factor=100, project_queue_factor=100, invoke_queue_timeout_s=60,
            )
        )  # fmt: skip
        service.http.headers["X-Auth-Token"] = keystone.token("admin")
        service.runtime()
        service.http.headers["X-Auth-Token"] = alice = keystone.token("alice")
        crowd = [held.enter_context(calls_of(service, service.function(SLOW, timeout=70), alice)) for _ in range(6)]
        service.http.headers["X-Auth-Token"] = bob = keystone.token("bob")
        quick, slow = service.function(QUICK), service.function(SLOW, timeout=70)

        for calls in crowd:
            calls.send(20)
        # Of the 45 places for calls, she gets no more than she leaves.
        wait_until("all but the bound are refused", lambda: sum(len(calls.read()) for calls in crowd) == 120 - 22 - 1)

        messages = {answer.message.partition(": ")[2] for calls in crowd for answer in calls.answers}
        assert all("WEB_CONNECTIONS" in message for message in messages), messages
        began = time.monotonic()
        for path in ("/healthz", "/v1/functions"):
            assert service.request("GET", path).status_code == 200
        assert service.call(quick)["status"] == "success"
        assert time.monotonic() - began < SOON_S
        calls = held.enter_context(calls_of(service, slow, bob))
        calls.send(4)
        wait_until("two of them wait", lambda: waiting(service, slow) == 2)
        assert calls.read() == []
