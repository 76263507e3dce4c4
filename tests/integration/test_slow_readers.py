"""Clients that read slowly or not at all use a limited amount of a web process's memory and don't block others."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from qinling_falcon.models import clock, database
from qinling_falcon.models.database import transact
from qinling_falcon.models.tables import Execution, Job
from qinling_falcon.settings import Settings
from tests.integration.service import Service, connections, package, running_service, wait_until

pytestmark = pytest.mark.xdist_group("slow-readers")  # one service, and one filling of its database, for all of them

MIB = 1024 * 1024
SLOW = 64
# Of the only project.
MOST, MOST_BYTES = 20, 16 * MIB
# By how much a web process may grow, with the rows that it renders and what the interpreter keeps. Measured: 44, 84, 71
# and 2 MiB; without limits on open answers 75, 587, 630 and 4 MiB (a package is read from its file).
MOST_GROWTH = {"jobs": 60 * MIB, "executions": 160 * MIB, "one execution": 160 * MIB, "a package": 30 * MIB}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A service with one web process, and with large rows and a large package in its project."""
    bounds = {"max_open_answers": 2 * MOST, "max_open_answer_bytes": 2 * MOST_BYTES}
    with running_service(max_workers=1, web_concurrency=1, **bounds) as service:
        fill(service)
        yield service


def fill(service: Service) -> None:
    """Write 600 jobs with inputs of 50 KB and 20 executions of 2 MB to the database; the API would take minutes."""
    now = clock.now()
    database.connect(Settings(var_dir=service.var_dir))
    try:
        common = {"project_id": "default", "function_id": str(uuid.uuid4()), "created_at": now}
        jobs = [
            {
                "id": str(uuid.uuid4()),
                "function_input": f"{number:05}" * 10_000,
                "first_execution_time": now,
                "next_execution_time": now,
                "status": "done",
            }
            for number in range(600)
        ]
        executions = [
            {"id": str(uuid.uuid4()), "input": "\x01" * MIB, "result": "\u00fc" * (MIB // 2), "status": "success"}
            for _ in range(20)
        ]
        transact(lambda: Job.insert_many([job | common for job in jobs]).execute())
        transact(lambda: Execution.insert_many([execution | common for execution in executions]).execute())
    finally:
        database.disconnect()


@contextlib.contextmanager
def slow_readers(service: Service, path: str, count: int = SLOW) -> Iterator[list[socket.socket]]:
    """Clients that send a request and don't read the answer. They connect one after another."""
    address = urlsplit(service.url)
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(count):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((address.hostname, address.port))
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            readers.append(reader)
        yield readers


def web_process(service: Service) -> int:
    """The process id of the only worker of Gunicorn."""
    children = Path(f"/proc/{service.processes['web'].pid}/task/{service.processes['web'].pid}/children")
    [worker] = children.read_text().split()
    return int(worker)


def resident(pid: int) -> int:
    """The bytes of a process's own memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def large_function(service: Service) -> str:
    content = package(main="def main(): ...", data=os.urandom(15_000_000).hex())
    fields = {"name": "f", "runtime_id": service.runtime(), "code": '{"source": "package"}'}
    files = {"package": ("f.zip", content, "application/zip")}
    return str(service.request("POST", "/v1/functions", data=fields, files=files).json()["id"])


@pytest.mark.parametrize("kind", MOST_GROWTH)
def test_their_answers_hold_little_memory_and_end_for_others(service: Service, kind: str) -> None:
    path = {"jobs": "/v1/jobs", "executions": "/v1/executions"}.get(kind)
    if kind == "one execution":
        path = f"/v1/executions/{service.request('GET', '/v1/executions?limit=1').json()[0]['id']}"
    elif kind == "a package":
        path = f"/v1/functions/{large_function(service)}?download=true"
    assert path is not None
    expected = service.request("GET", path).content  # also warms up what such an answer needs
    pid = web_process(service)
    before = most = resident(pid)

    def served() -> bool:
        nonlocal most
        most = max(most, resident(pid))
        assert requests.get(f"{service.url}/healthz", timeout=10).status_code == 200
        answer = requests.get(service.url + path, timeout=60)
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200 and answer.content == expected

    with slow_readers(service, path):
        wait_until("another client gets its answer", served, 120)
        most = max(most, resident(pid))
    assert most - before < MOST_GROWTH[kind], f"{(most - before) // MIB} MiB"
    assert "Traceback" not in service.logs()


def test_an_answer_that_is_cut_off_ends_its_connection(service: Service) -> None:
    path = f"/v1/functions/{large_function(service)}?download=true"
    with slow_readers(service, path, MOST) as readers:
        for reader in readers:
            assert reader.recv(1)
        ends = {(urlsplit(service.url).port, reader.getsockname()[1]) for reader in readers}
        assert ends <= connections()
        assert requests.get(service.url + path, timeout=60).status_code == 200
        wait_until("one of them is gone", lambda: len(ends & connections()) == MOST - 1)


def test_clients_that_go_away_leave_nothing_open(service: Service) -> None:
    cut_off = service.logs().count("was cut off")
    for _ in range(4):
        with slow_readers(service, "/v1/jobs", MOST // 2) as readers:
            for reader in readers:
                assert reader.recv(1)
    wait_until("a list is answered", lambda: requests.get(f"{service.url}/v1/jobs", timeout=60).status_code == 200)
    with slow_readers(service, "/v1/jobs", MOST // 2) as readers:
        for reader in readers:
            assert reader.recv(12).endswith(b" 200")
    assert service.logs().count("was cut off") == cut_off
