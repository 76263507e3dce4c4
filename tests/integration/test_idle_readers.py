"""Clients that send a request and don't read the answer are cut off."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

from tests.integration.service import connections, package, running_service, wait_until


def test_who_takes_nothing_of_its_answer_is_cut_off() -> None:
    with running_service(send_timeout_s=1, max_workers=1) as service:
        content = package(main="def main(): ...", data=os.urandom(20_000_000).hex())
        fields = {"name": "f", "runtime_id": service.runtime(), "code": '{"source": "package"}'}
        files = {"package": ("f.zip", content, "application/zip")}
        function = service.request("POST", "/v1/functions", data=fields, files=files).json()["id"]
        address = urlsplit(service.url)
        with socket.create_connection((address.hostname, address.port)) as idle:
            assert (address.port, idle.getsockname()[1]) in connections()
            idle.sendall(f"GET /v1/functions/{function}?download=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_until(
                "the service has cut it off", lambda: (address.port, idle.getsockname()[1]) not in connections()
            )
        assert service.request("GET", f"/v1/functions/{function}?download=true").content == content
