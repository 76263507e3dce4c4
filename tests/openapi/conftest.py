"""The app of tests/api, with things of all kinds in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qinling_falcon.settings import Settings
from tests.api.conftest import (  # noqa: F401 - fixtures
    SECRET_KEY,
    connected,
    connection,
    engine,
    lonely_pool,
    packages,
    pool,
    redis_url,
    registry,
    services,
)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:  # noqa: F811 - a fixture
    """Small limits, so that they are reached; no worker ever comes, so nobody need wait for one."""
    return Settings(
        var_dir=tmp_path,
        redis_url=redis_url,
        secret_keys=SECRET_KEY,
        max_package_size=256 * 1024,
        max_body_size=64 * 1024,
        invoke_queue_timeout_s=0.01,
        max_versions=100,
    )
