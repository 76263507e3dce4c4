"""One running service for all tests of the contract; each makes what it needs, and leaves the rest alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.service import LIST_LIMIT, LIST_LIMIT_MAX, MAX_PACKAGE_SIZE, MAX_VERSIONS, MAX_WORKERS, PROXY, User
from tests.integration.service import running_service
from tests.support.secrets import fernet_key


@pytest.fixture(scope="session")
def user() -> Iterator[User]:
    limits: dict[str, Any] = {"list_limit": LIST_LIMIT, "list_limit_max": LIST_LIMIT_MAX, "max_versions": MAX_VERSIONS}
    limits |= {"max_package_size": MAX_PACKAGE_SIZE, "max_workers": MAX_WORKERS, "warm_workers": 2}
    names = {"allowed_hosts": "functions.example", "trusted_proxies": PROXY}
    more = {"worker_idle_s": 600, "secret_keys": fernet_key()}
    with running_service(with_workers=True, **more, **names, **limits) as service:
        user = User(service)
        user.runtime_id()  # the first of all runtimes, which lists show first
        yield user
        service.http.close()  # web would wait for it when it stops


@pytest.fixture(scope="session")
def function_id(user: User) -> str:
    """A function that nobody changes."""
    return user.function()
