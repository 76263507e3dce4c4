"""The API server refuses requests, changes objects behind the service, and loses connections."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.integration.service import Service, running_service, wait_until
from tests.kubernetes.faults.cuts import cut_connections
from tests.kubernetes.faults.recovery import HELLO, check_ownership, output_of, retried, server_of
from tests.kubernetes.faults.throttling import throttled
from tests.kubernetes.namespaces import Namespace
from tests.kubernetes.test_image_functions import IMAGE


def test_warm_calls_go_on_while_the_api_server_has_too_many_requests(service: Service, namespace: Namespace) -> None:
    function = service.function(HELLO)
    service.call(function)
    check_ownership(service, namespace)

    with throttled(namespace.account, namespace.name):
        wait_until("the pool knows", lambda: server_of(service)["away_since"], 60)
        assert "too many requests" in server_of(service)["reason"]
        for _ in range(20):
            assert output_of(service.call(function)) == "Hello, World"

    wait_until("the pool knows", lambda: server_of(service)["away_since"] is None, 60)
    assert output_of(retried(service, service.function(HELLO))) == "Hello, World"  # by another worker
    check_ownership(service, namespace)


@contextlib.contextmanager
def objects_that_change(namespace: Namespace) -> Iterator[list[str]]:
    """Change the Lease, the Deployments and the pods of a namespace all the time, as other controllers may do.

    Yields:
        The names of the changed objects, one for each change.
    """
    changed: list[str] = []
    stopping = threading.Event()

    def change() -> None:
        with config.new_client_from_config(os.environ["KUBERNETES_CONFIG"]) as api:
            leases = client.CoordinationV1Api(api)
            core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
            while not stopping.wait(0.01):
                annotation = {"metadata": {"annotations": {"example.com/seen": str(time.time())}}}
                for patch, name in [
                    (leases.patch_namespaced_lease, "pool-manager"),
                    *(
                        (apps.patch_namespaced_deployment, deployment.metadata.name)
                        for deployment in apps.list_namespaced_deployment(namespace.name).items
                    ),
                    *((core.patch_namespaced_pod, pod.metadata.name) for pod in namespace.pods()),
                ]:
                    with contextlib.suppress(ApiException):  # it is gone
                        patch(name, namespace.name, annotation)
                        changed.append(name)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield changed
    finally:
        stopping.set()
        thread.join()


def test_conflicts_with_others_who_change_the_same_objects_cost_no_call(service: Service, namespace: Namespace) -> None:
    """The service's own changes get status 409 when an object has changed since it was read."""
    service.call(service.function(HELLO))
    with objects_that_change(namespace) as changed:
        manager = service.request("GET", "/v1/pool").json()["manager"]
        for _ in range(6):
            assert output_of(retried(service, service.function(HELLO))) == "Hello, World"
        wait_until("the Lease was renewed many times", lambda: changed.count("pool-manager") > 100, 60)
        assert output_of(retried(service, service.function(HELLO))) == "Hello, World"
        assert service.request("GET", "/v1/pool").json()["manager"] == manager

    check_ownership(service, namespace)


def test_service_is_right_again_after_its_connections_were_cut_at_random(namespace: Namespace, tmp_path: Path) -> None:
    """Also in the middle of requests, whose changes may then have been done without an answer."""
    with cut_connections(namespace.account.kubeconfig, tmp_path) as cuts:
        settings = namespace.settings() | {"kubernetes_config": cuts.kubeconfig}
        with running_service(**settings, max_workers=8, worker_idle_s=600) as service:
            service.call(service.function(HELLO))
            cuts.begin()
            for _ in range(8):
                assert output_of(retried(service, service.function(HELLO))) == "Hello, World"
            wait_until("many connections were cut", lambda: cuts.count > 60, 90)
            cuts.end()

            for _ in range(2):
                assert output_of(retried(service, service.function(HELLO))) == "Hello, World"
            check_ownership(service, namespace)


def test_executions_in_pods_of_their_own_end_rightly_while_connections_are_cut(
    namespace: Namespace, tmp_path: Path
) -> None:
    """What the watch has missed is asked for before an execution counts as too long, or as not started."""
    with cut_connections(namespace.account.kubeconfig, tmp_path) as cuts:
        settings = namespace.settings() | {"kubernetes_config": cuts.kubeconfig, "kubernetes_pod_grace_s": 1}
        with running_service(**settings, max_workers=8, warm_workers=0, reap_interval_s=0.5) as service:
            body = {"name": "f", "code": {"source": "image", "image": IMAGE}, "timeout": 5, "cpu": 300}
            function = service.request("POST", "/v1/functions", json=body).json()["id"]
            cuts.begin()
            for number in range(6):
                source = f"import time; time.sleep({number % 2}); print('it has run')"
                execution = service.call(function, json.dumps(["python3", "-c", source]))
                assert execution["status"] == "success", execution
                assert "it has run" in service.log_of(execution)
            cuts.end()
            wait_until("no pod is left", lambda: not namespace.pods("single-use"), 150)
