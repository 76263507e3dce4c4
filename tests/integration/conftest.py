"""One running service a module; modules of tests share nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.service import Service, running_service


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(max_workers=12, worker_idle_s=60) as running:
        yield running
