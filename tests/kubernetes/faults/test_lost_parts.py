"""The cluster, the pool manager and Redis fail; the service is right again without a restart."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import requests

from tests.integration.service import Service, running_service, wait_until
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.faults.recovery import HELLO, SLEEP, check_ownership, output_of, retried, server_of, workers_of
from tests.kubernetes.namespaces import Namespace


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_warm_calls_go_on_without_the_api_server_and_the_pool_says_what_it_cannot_know(
    service: Service, namespace: Namespace, plane: ControlPlane, sig: int
) -> None:
    function = service.function(HELLO)
    service.call(function)
    requests_before = server_of(service)["requests_per_minute"]
    assert requests_before > 0

    plane.api.kill() if sig == signal.SIGKILL else plane.api.send(sig)
    try:
        wait_until("the pool knows", lambda: server_of(service)["away_since"], 60)
        assert "ended" in server_of(service)["unknown"]
        for _ in range(20):
            assert output_of(service.call(function, {"name": "Ada"})) == "Hello, Ada"
    finally:
        plane.api.start() if sig == signal.SIGKILL else plane.api.send(signal.SIGCONT)
    plane.wait()

    wait_until("the pool knows", lambda: server_of(service)["away_since"] is None, 60)
    assert output_of(service.call(function)) == "Hello, World"
    assert output_of(service.call(service.function(HELLO))) == "Hello, World"  # by another worker
    check_ownership(service, namespace)


def test_a_manager_that_starts_without_the_api_server_waits_and_warm_calls_go_on(
    service: Service, namespace: Namespace, plane: ControlPlane
) -> None:
    function = service.function(HELLO)
    service.call(function)
    before = workers_of(service)
    service.stop("pool", signal.SIGKILL)
    plane.api.kill()
    try:
        service.start_pool()
        wait_until("the new manager is at work", lambda: "pods were not listed yet" in service.logs(), 60)
        for _ in range(5):
            assert output_of(service.call(function)) == "Hello, World"
        assert workers_of(service) == before
    finally:
        plane.api.start()
    plane.wait()

    check_ownership(service, namespace)
    assert before & workers_of(service), "pods outlive their manager"


def test_service_is_right_again_after_manager_redis_and_half_of_the_pods_are_lost_at_once(
    service: Service, namespace: Namespace
) -> None:
    functions = [service.function(HELLO) for _ in range(3)]
    for function in functions:
        service.call(function)
    check_ownership(service, namespace)

    service.stop("pool", signal.SIGKILL)
    service.flush_redis()
    for pod in namespace.pods()[::2]:
        namespace.core.delete_namespaced_pod(pod.metadata.name, namespace.name, grace_period_seconds=0)
    service.start_pool()

    wait_until("the service is ready", lambda: service.request("GET", "/readyz").status_code == 200, 60)
    for function in functions:
        assert output_of(service.call(function)) == "Hello, World"
    check_ownership(service, namespace)


def test_a_pod_that_is_deleted_in_a_call_ends_the_call_with_its_reason(service: Service, namespace: Namespace) -> None:
    function = service.function(SLEEP)
    answers: list[requests.Response] = []

    def call() -> None:
        body = {"function_id": function, "input": {"seconds": 30}}
        answers.append(requests.post(f"{service.url}/v1/executions", json=body, timeout=60))

    caller = threading.Thread(target=call)
    caller.start()
    [execution] = wait_until("it runs", service.running_executions)
    [worker] = [
        row["id"]
        for row in service.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()
        if row["lease"] is not None
    ]
    namespace.core.delete_namespaced_pod(namespace.worker_pod(worker), namespace.name, grace_period_seconds=0)
    caller.join(60)

    ended = service.execution(execution)
    assert ended["status"] == "error", ended
    assert output_of(service.call(function, {"seconds": 0})) == "slept"
    check_ownership(service, namespace)


def test_a_namespace_that_was_deleted_by_hand_is_filled_again_when_it_is_back(
    service: Service, namespace: Namespace
) -> None:
    function = service.function(HELLO)
    service.call(function)

    namespace.delete()
    namespace.create()

    assert output_of(retried(service, function)) == "Hello, World"
    check_ownership(service, namespace)


def test_a_standby_takes_over_when_the_leader_is_killed_under_load(service: Service, namespace: Namespace) -> None:
    service.start_pool("standby")
    functions = [service.function(HELLO) for _ in range(4)]
    service.call(functions[0])
    stopping = threading.Event()
    outcomes: list[str] = []

    def call() -> None:
        while not stopping.is_set():
            for function in functions:
                outcomes.append(output_of(retried(service, function)))

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    time.sleep(0.5)  # assignments are under way
    service.stop("pool", signal.SIGKILL)
    manager = wait_until("a manager is active", lambda: service.request("GET", "/v1/pool").json()["manager"])
    wait_until("the standby is active", lambda: service.request("GET", "/v1/pool").json()["manager"] != manager, 60)
    new = service.function(SLEEP)
    assert output_of(retried(service, new, {"seconds": 0})) == "slept"
    stopping.set()
    for caller in callers:
        caller.join(60)

    assert set(outcomes) == {"Hello, World"}
    check_ownership(service, namespace)
    service.stop("standby")


def test_a_full_namespace_makes_room_by_evicting_idle_workers(namespace: Namespace) -> None:
    """A quota lets four pods exist: two of them are spare, and each function gets a worker nevertheless."""
    namespace.core.create_namespaced_resource_quota(
        namespace.name, {"metadata": {"name": "pods"}, "spec": {"hard": {"pods": "4"}}}
    )
    with running_service(**namespace.settings(), warm_workers=1, worker_idle_s=600) as service:
        for _ in range(6):
            assert output_of(retried(service, service.function(HELLO))) == "Hello, World"

        assert len(namespace.pods()) <= 4


def test_a_burst_of_new_functions_gets_more_spare_pods_for_its_time(service: Service, namespace: Namespace) -> None:
    functions = [service.function(HELLO) for _ in range(6)]
    callers = [threading.Thread(target=retried, args=(service, function)) for function in functions]
    seen = 0
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers):
        deployment = namespace.apps.list_namespaced_deployment(namespace.name).items[0]
        seen = max(seen, deployment.spec.replicas)
        time.sleep(0.2)

    assert seen > 2
    check_ownership(service, namespace)


def test_a_taken_pod_of_no_worker_is_deleted(service: Service, namespace: Namespace) -> None:
    """It is labelled as the pod of a worker, but its key is none of `SECRET_KEYS`, so that nothing can call it."""
    service.call(service.function(HELLO))
    [pod, *_] = wait_until("there is a spare pod", lambda: namespace.pods("spare"))
    labels = {
        "qinling-falcon/state": "taken",
        "qinling-falcon/worker": "11111111-1111-4111-8111-111111111111",
        "qinling-falcon/secret-key": "0123456789abcdef",
    }
    namespace.core.patch_namespaced_pod(pod.metadata.name, namespace.name, {"metadata": {"labels": labels}})

    wait_until(
        "the pod is deleted",
        lambda: pod.metadata.name not in [found.metadata.name for found in namespace.pods()],
        90,
    )
    check_ownership(service, namespace)


def test_service_is_right_again_after_etcd_was_restored_from_a_copy(
    service: Service, namespace: Namespace, plane: ControlPlane
) -> None:
    """The cluster forgets the pods that were made since the copy, and knows again those that were deleted."""
    first, second = service.function(HELLO), service.function(HELLO)
    service.call(first)
    check_ownership(service, namespace)
    copy = plane.copy_etcd()
    service.call(second)
    check_ownership(service, namespace)

    plane.restore_etcd(copy)

    for function in (first, second):
        assert output_of(retried(service, function)) == "Hello, World"
    check_ownership(service, namespace)
