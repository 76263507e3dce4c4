"""Connections to a database of one test's own, and runs of tests in a process with gevent's patches."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qinling_falcon.models import database
from qinling_falcon.settings import Settings
from tests.servers.postgres import PostgresServer
from tests.support.tables import make_tables

ROOT = Path(__file__).parents[2]
# In the patched process, this variable names the folder of the PostgreSQL server that its tests share.
_PATCHED = "QF_UNDER_GEVENT"

in_patched_process = pytest.mark.skipif(_PATCHED not in os.environ, reason="needs the patches of gevent")
starts_patched_process = pytest.mark.skipif(_PATCHED in os.environ, reason="starts the process that runs this file")


@contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """Connect this process to a database that gets its tables first."""
    make_tables(settings)
    database.connect(settings)
    try:
        yield
    finally:
        database.disconnect()


def shared_postgres() -> PostgresServer | None:
    """The server of the process that started this one, if this is a patched process."""
    folder = os.environ.get(_PATCHED)
    return PostgresServer(Path(folder)) if folder else None


def run_patched(postgres: PostgresServer, *paths: str) -> None:
    """Run files of tests in a process that gevent has patched, as web and worker processes are."""
    with tempfile.TemporaryDirectory(prefix="qf-") as folder:
        # With a folder of its own, this process does not clean up after other runs beside it.
        options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--basetemp", f"{folder}/tests", *paths]
        script = f"from gevent import monkey; monkey.patch_all(); import pytest, sys; sys.exit(pytest.main({options}))"
        outcome = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {_PATCHED: str(postgres.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=110,
        )
    assert outcome.returncode == 0, outcome.stdout
    assert " passed" in outcome.stdout
