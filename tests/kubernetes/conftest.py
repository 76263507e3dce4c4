"""What the tests of `ORCHESTRATOR=kubernetes` share. They run in the network of a node (see `__main__.py`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.service import Service, running_service
from tests.kubernetes.namespaces import Namespace, new_namespace


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """A namespace of its own for the tests of a module."""
    with new_namespace() as made:
        yield made


@pytest.fixture(scope="module")
def service(namespace: Namespace) -> Iterator[Service]:
    """A service whose workers are pods of the namespace."""
    with running_service(**namespace.settings(), max_workers=6, worker_idle_s=60) as running:
        yield running
