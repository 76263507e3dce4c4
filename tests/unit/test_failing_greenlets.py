"""A test fails with its greenlets and threads (tests/conftest.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("begin", "fails"),
    [
        ("gevent.spawn(wrong).join()", True),
        ("gevent.spawn(refused).join()", False),
        ("thread = threading.Thread(target=wrong); thread.start(); thread.join()", True),
    ],
)
def test_an_error_beside_the_test_fails_it(tmp_path: Path, begin: str, fails: bool) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_call\n")
    (tmp_path / "test_it.py").write_text(
        "import threading, gevent\n"
        "from qinling_falcon.errors import Unavailable\n"
        "def wrong(): assert False\n"
        "def refused(): raise Unavailable('away')\n"
        f"def test_it(): {begin}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", _ROOT / "pyproject.toml", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "--rootdir", tmp_path, tmp_path], cwd=_ROOT, capture_output=True, text=True)
    assert (done.returncode, f"1 {'failed' if fails else 'passed'}" in done.stdout) == (int(fails), True), done.stdout
