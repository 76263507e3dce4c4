"""A node is gone with the workers on it, and comes back."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.integration.service import running_service, wait_until
from tests.kubernetes.control_plane import ControlPlane
from tests.kubernetes.faults.recovery import SLEEP, check_ownership, output_of, workers_of
from tests.kubernetes.namespaces import Namespace
from tests.kubernetes.pod_processes import processes_of

# The cluster notices after 40 s. The service then waits for the longest call, and 60 s more.
_LOST_WITHIN_S = 180


@pytest.mark.timeout(600)
def test_an_execution_on_a_node_that_is_gone_is_lost_in_time_and_runs_again_when_the_node_is_back(
    namespace: Namespace, plane: ControlPlane
) -> None:
    settings = namespace.settings() | {"max_timeout": 5, "load_timeout_s": 2, "lease_grace_s": 1}
    with running_service(**settings, max_workers=8, worker_idle_s=600, with_workers=True) as service:
        function = service.function(SLEEP, timeout=5)
        service.call(function, {"seconds": 0})
        check_ownership(service, namespace)
        execution = service.accept(function, {"seconds": 4})
        service.wait_for_attempt(execution)
        gone = workers_of(service)
        stopped = [pid for pod in namespace.pods("taken") for pid in processes_of(pod.metadata.uid)]
        assert stopped

        plane.kubelet.kill()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        service.stop("worker", signal.SIGKILL)  # which would have ended the execution by its timeout
        try:
            wait_until("its worker is gone", lambda: not gone & workers_of(service), _LOST_WITHIN_S)
            noted = f"recorded lost executions: {execution}"
            wait_until("it is lost", lambda: noted in service.logs(), _LOST_WITHIN_S)
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            plane.kubelet.start()

        service.start_module("worker", "workers.worker")
        wait_until("it has ended", lambda: service.execution(execution)["status"] != "running", _LOST_WITHIN_S)
        ended = service.execution(execution)
        assert (output_of(ended), ended["attempt"]) == ("slept", 2)
        check_ownership(service, namespace)
