"""Each test of faults has a namespace and a service of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.service import Service, running_service
from tests.kubernetes.control_plane import ControlPlane, control_plane
from tests.kubernetes.namespaces import Namespace, new_namespace


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The servers of the cluster. There is one such object, because it knows which processes it has started again."""
    plane = control_plane()
    yield plane
    plane.wait()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace of the test's own."""
    with new_namespace() as made:
        yield made


@pytest.fixture
def service(namespace: Namespace) -> Iterator[Service]:
    """A service whose workers are pods of the namespace."""
    with running_service(**namespace.settings(), max_workers=8, worker_idle_s=600) as running:
        yield running
