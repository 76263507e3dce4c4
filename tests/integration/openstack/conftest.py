"""A Keystone and a Swift for the tests of this folder, which run one after another in one process; not `test_docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.openstack.cloud import Cloud, Web, running_cloud
from tests.integration.openstack.proxy import Proxy, running_proxy
from tests.servers.openstack import START_TIMEOUT_S, Keystone, Swift, running_keystone, running_swift

# This one takes as long as many others, and has a Keystone and a Swift of its own.
_LONG = {"test_docs"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.xdist_group("openstack-long" if item.path.stem in _LONG else "openstack"))
            item.add_marker(pytest.mark.timeout(START_TIMEOUT_S + 200))


@pytest.fixture(scope="session")
def keystone() -> Iterator[Keystone]:
    with running_keystone() as server:
        yield server


@pytest.fixture(scope="session")
def swift(keystone: Keystone) -> Iterator[Swift]:
    with running_swift(keystone) as server:
        yield server


@pytest.fixture(scope="session")
def proxy(keystone: Keystone) -> Iterator[Proxy]:
    with running_proxy(keystone) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def cloud(keystone: Keystone, proxy: Proxy) -> Iterator[Cloud]:
    with running_cloud(keystone, proxy) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def patient(cloud: Cloud) -> Iterator[Web]:
    """A web of that cloud that believes tokens for long."""
    with cloud.web(TOKEN_CACHE_S=3600, KEYSTONE_TIMEOUT_S=3) as web:
        yield web
