"""Removes what the tests of a session have left on the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.control_groups import remove_groups_of


@pytest.fixture(scope="session", autouse=True)
def remove_groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the control groups of the session's installs: a killed manager leaves them to the next one."""
    yield
    remove_groups_of(tmp_path_factory.getbasetemp())
