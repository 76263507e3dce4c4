"""A project that sends endless bodies uses little memory and blocks neither its own calls nor those of others."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

import psutil

from tests.integration.service import Service, running_service, wait_until

CROWD = 300
MOST_GROWTH = 64 * 1024 * 1024  # all bodies together have 600 MB


def test_unfinished_bodies_hold_little_memory_and_keep_no_other_request_out() -> None:
    limits = {"max_unfinished_bodies": 60, "max_unfinished_body_bytes": 8 * 1024 * 1024, "web_connections": 50}
    with running_service(max_workers=2, web_concurrency=1, body_grace_s=4, **limits) as service:
        function = service.function("def main(): return 'served'")
        assert service.call(function)["status"] == "success"
        before = _memory(service)
        address = urlsplit(service.url)
        head = "POST /v1/executions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        # All but the last byte of a body as large as may be.
        half = f"{head}Content-Length: 2000000\r\n\r\n".encode() + b"{" * 1_999_999
        with contextlib.ExitStack() as stack:
            for _ in range(CROWD):
                client = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=20))
                client.setblocking(False)
                _send_some(client, half)
            # In the crowd's own project a call is refused (503) until the crowd has been silent for a second.
            wait_until("a call is served", lambda: _is_served(service, function), timeout_s=10)
            assert service.request("GET", "/healthz").status_code == 200
            assert _memory(service) - before < MOST_GROWTH
        wait_until("calls go on", lambda: _is_served(service, function))


def _is_served(service: Service, function: str) -> bool:
    answer = service.request("POST", "/v1/executions", json={"function_id": function})
    assert answer.status_code in (201, 503), answer.text
    return answer.status_code == 201


def _send_some(client: socket.socket, data: bytes) -> None:
    sent = 0
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while sent < len(data):
            sent += client.send(data[sent:])


def _memory(service: Service) -> int:
    """Resident bytes of the web process."""
    (web,) = psutil.Process(service.processes["web"].pid).children()
    return int(web.memory_info().rss)
