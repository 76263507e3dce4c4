"""Which tests run where: those of this folder need a cluster, and some others do not hold for pods."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

_OF_PODS = "tests/kubernetes/"
_NEEDS_CLUSTER = "needs a cluster: make test-kubernetes"

# What only workers on this machine give. A key is a file, a test, or one form of a test. `-rs` prints the reasons.
_INTEGRATION = "tests/integration"
NOT_FOR_PODS = {
    f"{_INTEGRATION}/test_failing_starts.py": "replaces the program of a runtime in a folder of this machine",
    f"{_INTEGRATION}/test_min_warm.py::test_after_a_restart_of_the_manager_workers_are_kept_again": (
        "expects other workers after a restart of their manager, but pods outlive it: faults/test_lost_parts.py"
    ),
    f"{_INTEGRATION}/test_pool_failures.py::test_a_worker_that_is_offered_to_a_killed_process_serves_another_one": (
        "needs a start within HOLDER_TTL_S of 3 s; pods take longer"
    ),
    f"{_INTEGRATION}/test_standby.py::test_a_manager_that_was_stopped_for_long_ends_its_workers_and_stands_by": (
        "pods outlive their manager: faults/test_lost_parts.py"
    ),
    f"{_INTEGRATION}/test_standby.py::test_web_on_another_machine_than_the_pool_says_so_and_leaves_the_workers_alone": (
        "pods can be called from every machine"
    ),
    f"{_INTEGRATION}/test_unloadable_packages.py::test_a_full_disk_is_the_platforms_failure_and_is_tried_once": (
        "fills the disk of this machine's workers; a pod's package is in a volume of its node"
    ),
    f"{_INTEGRATION}/test_versions.py::test_an_image_function_s_execution_ends_in_error_with_the_reason": (
        "pods run image functions: test_image_functions.py"
    ),
}


def skip_others(items: Iterable[pytest.Item]) -> None:
    """Skip the tests that the orchestrator of this run has no part in."""
    on_pods = os.environ.get("ORCHESTRATOR") == "kubernetes"
    for item in items:
        reason = _reason(item.nodeid) if on_pods else _NEEDS_CLUSTER if item.nodeid.startswith(_OF_PODS) else None
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def _reason(test: str) -> str | None:
    file, test_without_form = test.partition("::")[0], test.partition("[")[0]
    return next((NOT_FOR_PODS[key] for key in (test, test_without_form, file) if key in NOT_FOR_PODS), None)
