"""Workers that hold old code get no further call, on the real pool."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.leases import LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from tests.api.client import Client, package
from tests.pool.side import wait_until


@dataclass
class Holder:
    """A function with an idle worker that holds its code."""

    function_id: str
    worker_id: str


@pytest.fixture
def holder(client: Client, pool: Pool, registry: Registry) -> Holder:
    function = client.function()
    worker_id = uuid.uuid4().hex
    registry.configure(function["runtime_id"], 1)
    registry.register(worker_id, function["runtime_id"])
    registry.mark_ready(WorkerInfo(worker_id, "127.0.0.1:1", "secret"), function["runtime_id"])
    request = LeaseRequest(
        target=f"{function['id']}:0:digest",
        runtime_id=function["runtime_id"],
        function_id=function["id"],
        project_id="default",
        execution_id=str(uuid.uuid4()),
        generations=tuple(pool.generations([f"function:{function['id']}"]).items()),
        run_s=5.0,
        detail="{}",
    )
    with pool.lease(request, 1.0) as lease:
        lease.used()
        lease.released()
        lease.committed()
    wait_until(lambda: registry.workers()[worker_id].state == "idle")
    return Holder(function["id"], worker_id)


def test_new_code_ends_the_workers_that_hold_the_old(client: Client, registry: Registry, holder: Holder) -> None:
    answer = client.form("PUT", f"/v1/functions/{holder.function_id}", [("package", package("x = 1"))])
    assert answer.status_code == 200
    assert registry.draining() == [holder.worker_id]


@pytest.mark.parametrize("change", [{"timeout": 9}, {"name": "n"}, {"cpu": 100}, {"entry": "main.main"}])
def test_what_the_worker_does_not_hold_leaves_it_alone(
    client: Client, registry: Registry, holder: Holder, change: dict[str, object]
) -> None:
    assert client.simulate_put(f"/v1/functions/{holder.function_id}", json=change).status_code == 200
    assert registry.draining() == []


def test_a_deleted_function_takes_its_workers_along(client: Client, registry: Registry, holder: Holder) -> None:
    assert client.simulate_delete(f"/v1/functions/{holder.function_id}").status_code == 204
    assert registry.draining() == [holder.worker_id]
