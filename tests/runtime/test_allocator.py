"""The gaps in CPython's memory are filled before workers are forked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from runtimes.python3.qinling_worker.allocator import _block
from tests.orchestrator.conftest import REPOSITORY

_PROGRAM = """
import json, sys
sys.path.insert(0, "runtimes/python3")
from qinling_worker.allocator import fill_gaps, free_blocks
before = free_blocks()
fill_gaps()
print(json.dumps([before, free_blocks()]))
"""


def _gaps(*options: str, **environ: str) -> tuple[dict[int, int], dict[int, int]]:
    """The bytes in gaps by the size of blocks, before and after they were filled. Nothing else may be printed."""
    command = [sys.executable, *options, "-S", "-c", _PROGRAM]
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    before, after = ({size: size * count for size, count in rows} for rows in json.loads(done.stdout))
    return before, after


def test_most_gaps_are_filled() -> None:
    before, after = _gaps("-I")
    assert 0 < sum(after.values()) < sum(before.values()) / 2


@pytest.mark.parametrize("size", range(16, 513, 16))
def test_each_filler_takes_a_block_of_its_own(size: int) -> None:
    one, other = _block(size), _block(size)
    assert one is not other
    assert size - 16 < sys.getsizeof(one) <= size


def test_another_allocator_is_left_alone() -> None:
    assert _gaps(PYTHONMALLOC="malloc") == ({}, {})
