"""The gaps in CPython's memory are filled before workers are forked."""

from __future__ import annotations

import subprocess
import sys

from tests.orchestrator.conftest import REPOSITORY

_PROGRAM = """
import sys
sys.path.insert(0, "runtimes/python3")
from qinling_worker.allocator import fill_gaps, free_blocks
before = sum(size * count for size, count in free_blocks())
fill_gaps()
after = sum(size * count for size, count in free_blocks())
print(before, after)
"""


def _gaps(*options: str, **environ: str) -> tuple[int, int]:
    """The bytes in gaps before and after they were filled. Nothing else may be printed."""
    command = [sys.executable, *options, "-S", "-c", _PROGRAM]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    before, after = map(int, done.stdout.split())
    return before, after


def test_most_gaps_are_filled() -> None:
    before, after = _gaps("-I")
    assert 0 < after < before / 2


def test_another_allocator_is_left_alone() -> None:
    assert _gaps(PYTHONMALLOC="malloc") == (0, 0)
