"""Workers are reached by node ports, and through the API server from outside of the cluster's network."""

from __future__ import annotations

import contextlib
import io
import json
import random
import signal
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from qinling_falcon.orchestrators.addresses import tcp_address
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.ping import ping
from tests.integration.service import Service, package, running_service, wait_until
from tests.kubernetes.access import OUTSIDE
from tests.kubernetes.namespaces import Namespace, new_namespace
from tests.kubernetes.networks import outside_of_the_node

COUNT = "calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n"
SLEEP = "import time\ndef main(seconds):\n    time.sleep(seconds)\n    return 'slept'\n"
LONG = "def main(count): return 'x' * count\n"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A service and the namespace of its workers."""

    access: str
    service: Service
    namespace: Namespace

    def pod_of(self, function: str) -> str:
        """The name of the pod that holds a function."""
        [worker] = self.service.request("GET", f"/v1/functions/{function}/workers").json()
        return self.namespace.worker_pod(worker["worker_name"])

    def pod_names(self) -> list[str]:
        """The names of all pods, also of those that are being deleted."""
        pods = self.namespace.core.list_namespaced_pod(self.namespace.name).items
        return [pod.metadata.name for pod in pods]

    def workers(self) -> set[str]:
        """The ids of the workers that the pool knows."""
        return {row["id"] for row in self.service.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()}


@pytest.fixture(scope="module", params=["node-port", "api-proxy"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A service that reaches its workers in one way: by node ports in the node's network, or from outside."""
    is_outside = request.param == "api-proxy"
    with (
        outside_of_the_node() if is_outside else contextlib.nullcontext(),
        new_namespace(*OUTSIDE[request.param]) as namespace,
        running_service(
            **namespace.settings(),
            kubernetes_worker_access=request.param,
            max_workers=12,  # each function keeps its worker
            warm_workers=2,
            worker_idle_s=600,
            new_interpreters=is_outside,  # the others are forks of a process in the node's network
            with_workers=True,
        ) as service,
    ):
        yield Place(request.param, service, namespace)


def output_of(execution: dict[str, Any]) -> Any:
    assert execution["status"] == "success", execution
    return json.loads(execution["result"])["output"]


def large_package() -> bytes:
    """A package of 30 MiB."""
    buffer = io.BytesIO(package(main=LONG))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("noise", random.Random(0).randbytes(30 * MIB))
    return buffer.getvalue()


def services_of(place: Place) -> dict[str, Any]:
    """The Services of workers, by the worker's id."""
    found = place.namespace.core.list_namespaced_service(place.namespace.name).items
    return {service.metadata.labels["qinling-falcon/worker"]: service for service in found}


def test_a_worker_is_reached_in_the_way_of_the_setting(place: Place) -> None:
    function = place.service.function(COUNT)

    outputs = [output_of(place.service.call(function)) for _ in range(3)]

    assert outputs == [1, 2, 3]
    [worker] = place.service.request("GET", f"/v1/functions/{function}/workers").json()
    pod = place.namespace.core.read_namespaced_pod(place.pod_of(function), place.namespace.name)
    if place.access == "node-port":
        service = services_of(place)[worker["worker_name"]]
        assert service.spec.type == "NodePort"
        assert [owner.uid for owner in service.metadata.owner_references] == [pod.metadata.uid]
    else:
        inner = WorkerInfo("w", tcp_address(pod.status.pod_ip, 9090), "s")
        assert ping(inner, 2) is None, "this test must run outside of the network of pods"
        assert services_of(place) == {}


def test_an_accepted_execution_runs(place: Place) -> None:
    function = place.service.function(COUNT)

    assert output_of(place.service.ended(place.service.accept(function))) == 1


def test_a_running_call_is_cancelled(place: Place) -> None:
    function = place.service.function(SLEEP, timeout=60)
    execution = place.service.accept(function, {"seconds": 60})
    place.service.wait_for_attempt(execution)

    answer = place.service.request("PUT", f"/v1/executions/{execution}", json={"status": "cancelled"})

    assert answer.status_code == 202, answer.text
    assert place.service.ended(execution)["status"] == "cancelled"


def test_a_large_package_is_loaded_and_a_large_result_is_returned(place: Place) -> None:
    form = {"name": "f", "runtime_id": place.service.runtime(), "entry": "main.main", "code": '{"source": "package"}'}
    files = {"package": ("f.zip", large_package(), "application/zip")}
    made = place.service.request("POST", "/v1/functions", data=form, files=files)
    assert made.status_code == 201, made.text

    execution = place.service.call(made.json()["id"], {"count": MIB - 1000})

    assert output_of(execution) == "x" * (MIB - 1000)


def test_a_call_whose_pod_is_deleted_ends_with_an_error_and_the_next_one_gets_another_pod(place: Place) -> None:
    function = place.service.function(SLEEP, timeout=60)
    place.service.call(function, {"seconds": 0})  # a worker that is lost while it loads is replaced in the same call
    answers: list[requests.Response] = []

    def call() -> None:
        body = {"function_id": function, "input": {"seconds": 60}}
        answers.append(requests.post(f"{place.service.url}/v1/executions", json=body, timeout=90))

    caller = threading.Thread(target=call)
    caller.start()
    wait_until("the call runs", place.service.running_executions)
    place.namespace.core.delete_namespaced_pod(place.pod_of(function), place.namespace.name, grace_period_seconds=0)
    caller.join(60)

    assert answers[0].json()["status"] == "error", answers[0].text
    assert output_of(place.service.call(function, {"seconds": 0})) == "slept"


def test_a_call_for_a_pod_that_is_gone_is_sent_to_another_one(place: Place) -> None:
    wait_until("two workers are warm", lambda: place.service.capacity(place.service.runtime())["available"] >= 2, 60)
    function = place.service.function(COUNT)
    place.service.call(function)
    name, namespace = place.pod_of(function), place.namespace.name
    place.service.processes["pool"].send_signal(signal.SIGSTOP)  # so that the pool still has the worker
    try:
        place.namespace.core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
        wait_until("the pod is gone", lambda: name not in place.pod_names())

        execution = place.service.call(function)
    finally:
        place.service.processes["pool"].send_signal(signal.SIGCONT)

    assert output_of(execution) == 1


def test_a_manager_that_lost_redis_finds_the_workers_in_the_cluster(place: Place) -> None:
    # The pool keeps two workers that hold nothing, and a new manager adopts these.
    wait_until("two workers are warm", lambda: place.service.capacity(place.service.runtime())["available"] >= 2)
    before = place.workers()

    place.service.stop("pool", signal.SIGKILL)
    place.service.flush_redis()
    place.service.start_pool()

    wait_until("workers are adopted", lambda: before & place.workers(), 60)
    wait_until("the service is ready", lambda: place.service.request("GET", "/readyz").status_code == 200, 60)
    assert output_of(place.service.call(place.service.function(COUNT))) == 1


@pytest.mark.parametrize("place", ["node-port"], indirect=True)
def test_a_service_goes_with_its_pod(place: Place) -> None:
    function = place.service.function(COUNT)
    place.service.call(function)
    [worker] = place.service.request("GET", f"/v1/functions/{function}/workers").json()
    assert worker["worker_name"] in services_of(place)

    place.namespace.core.delete_namespaced_pod(place.pod_of(function), place.namespace.name, grace_period_seconds=0)

    wait_until("the Service is gone", lambda: worker["worker_name"] not in services_of(place), 60)


@pytest.mark.parametrize("place", ["node-port"], indirect=True)
def test_a_worker_whose_service_was_deleted_is_replaced(place: Place) -> None:
    function = place.service.function(COUNT)
    place.service.call(function)
    [worker] = place.service.request("GET", f"/v1/functions/{function}/workers").json()
    service = services_of(place)[worker["worker_name"]]

    place.namespace.core.delete_namespaced_service(service.metadata.name, place.namespace.name, _preload_content=False)

    wait_until("the worker is removed", lambda: worker["worker_name"] not in place.workers(), 60)
    assert output_of(place.service.call(function)) == 1


@pytest.mark.parametrize("place", ["node-port"], indirect=True)
def test_a_start_without_a_service_fails_and_takes_no_pod(place: Place) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"services.nodeports": "0"}}}
    core, namespace = place.namespace.core, place.namespace.name
    core.create_namespaced_resource_quota(namespace, quota)
    wait_until("the quota holds", lambda: core.read_namespaced_resource_quota("none", namespace).status.hard)
    function = place.service.function(COUNT)
    try:
        for pod in place.namespace.pods("taken"):
            core.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=0)

        wait_until("a start has failed", lambda: "refuses a Service for pod" in place.service.logs(), 60)
        assert place.namespace.pods("taken") == []
    finally:
        core.delete_namespaced_resource_quota("none", namespace)

    def call() -> Any:
        body = {"function_id": function}
        answer = place.service.request("POST", "/v1/executions", json=body)
        return answer.status_code == 201 and output_of(answer.json())

    assert wait_until("a call succeeds", call, 90) == 1
