"""A pool of workers that are addresses only, and reading `/v1/pool` as a client."""

from __future__ import annotations

import uuid
from typing import Any

import gevent

from qinling_falcon.invocation.calls import detail
from qinling_falcon.models import clock
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.leases import Lease, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from tests.api.client import Client

RUNTIME = "11111111-0000-4000-8000-000000000000"


class House:
    """A pool of one runtime, with workers that are addresses only."""

    def __init__(self, pool: Pool, registry: Registry):
        self.pool = pool
        self.registry = registry
        self._greenlets: list[gevent.Greenlet] = []
        registry.configure(RUNTIME, 1)
        pool._beat()  # the fixture has emptied Redis after the first one

    def start(self) -> str:
        worker_id = str(uuid.uuid4())
        assert self.registry.register(worker_id, RUNTIME, "python3")
        self.registry.mark_ready(WorkerInfo(worker_id, "127.0.0.1:1", "a-secret"), RUNTIME, "python3")
        return worker_id

    def request(self, function_id: str | None = None, **changes: Any) -> LeaseRequest:
        begun = ExecutionRecord(
            id=str(uuid.uuid4()), project_id="default", function_id=function_id or str(uuid.uuid4()),
            status="running", created_at=clock.now(),
        )  # fmt: skip
        members: dict[str, Any] = {"target": f"{begun.function_id}:0:digest:warm", "detail": detail(begun)} | changes
        return LeaseRequest(
            runtime_id=RUNTIME, function_id=begun.function_id, project_id="default", execution_id=begun.id,
            generations=(), run_s=60, **members,
        )  # fmt: skip

    def lease(self, function_id: str | None = None, **changes: Any) -> Lease:
        return self.pool.lease(self.request(function_id, **changes), 2)

    def wait(self, function_id: str, **changes: Any) -> None:
        """Let a call wait until the test has ended."""
        self._greenlets.append(gevent.spawn(self.pool.lease, self.request(function_id, **changes), 60))

    def close(self) -> None:
        gevent.killall(self._greenlets)


def end(lease: Lease) -> None:
    with lease:
        lease.used()
        lease.released()
        lease.committed()


def seen(client: Client, path: str = "", query: str = "") -> Any:
    answer = client.simulate_get(f"/v1/pool{path}", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json


def all_pages(client: Client, path: str, limit: int) -> list[dict[str, Any]]:
    """The rows of all pages, as a client finds them by the links."""
    rows: list[dict[str, Any]] = []
    url = f"/v1/pool{path}?limit={limit}"
    for _ in range(200):
        path, _, query = url.partition("?")
        answer = client.simulate_get(path, query_string=query)
        assert len(answer.json) <= limit
        rows += answer.json
        if "link" not in answer.headers:
            return rows
        url = "/v1" + answer.headers["link"].partition(">")[0].partition("/v1")[2]
    raise AssertionError("the pages have no end")
