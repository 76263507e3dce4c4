"""One `make run` for all kill tests of a module: each must leave it as good as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.calls import Chaos
from tests.run.make_run import make_run, var_dir


@pytest.fixture(scope="module")
def chaos() -> Iterator[Chaos]:
    with var_dir() as folder, make_run(folder) as running:
        yield Chaos(running)
