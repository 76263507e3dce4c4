"""The settings that a service of a test needs for the orchestrator that the environment names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def settings_of_orchestrator(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of one service. With `ORCHESTRATOR=kubernetes`, it has a namespace of its own while it runs.

    Args:
        given: the settings that the test has chosen, which come first.
    """
    if given.get("orchestrator", os.environ.get("ORCHESTRATOR")) != "kubernetes" or "kubernetes_namespace" in given:
        yield dict(given)
        return
    from tests.kubernetes.namespaces import new_namespace  # needs the client of Kubernetes

    with new_namespace() as namespace:
        yield namespace.settings() | dict(given)
