"""Which tests run where: those of this folder need a cluster, and some others do not hold for pods."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

_OF_PODS = "tests/kubernetes/"
_NEEDS_CLUSTER = "needs a cluster: make test-kubernetes"

# What only workers on this machine give. A key is a file, a test, or one form of a test. `-rs` prints the reasons.
NOT_FOR_PODS: dict[str, str] = {}


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
