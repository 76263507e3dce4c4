"""Fills the gaps in CPython's memory before processes are forked.

CPython puts new objects into the gaps (free blocks) of pages that hold older objects. In a forked process, each of
these pages is then copied. After the gaps are filled, new objects share fresh pages. So a worker needs less memory, and
starts faster (benchmarks/README.md).
"""

from __future__ import annotations

import os
import sys
from typing import Any

_BYTES_OVERHEAD = sys.getsizeof(b"")
_fillers: list[Any] = []


def fill_gaps() -> None:
    """Allocate all free blocks in pages that hold objects, for ever. Without CPython's own allocator, do nothing."""
    for size, count in free_blocks():
        for _ in range(count):
            _fillers.append(_block(size))


def free_blocks() -> list[tuple[int, int]]:
    """The size of each class of blocks, and how many of them are free in pages that hold objects."""
    show = getattr(sys, "_debugmallocstats", None)
    if show is None or not hasattr(os, "memfd_create"):
        return []
    rows = (line.split() for line in _written_by(show).splitlines())
    # class, size, number of pools, blocks in use, free blocks
    return [(int(row[1]), int(row[4])) for row in rows if len(row) == 5 and all(cell.isdigit() for cell in row)]


def _block(size: int) -> Any:
    """An object that takes one block of this size."""
    if size <= 16:
        return object()
    if size <= _BYTES_OVERHEAD:
        return complex(1.0, 0.0)  # a literal would be one object
    return bytes(size - _BYTES_OVERHEAD)


def _written_by(show: Any) -> bytes:
    """What a function writes to descriptor 2."""
    written, stderr = os.memfd_create("written"), os.dup(2)
    try:
        os.dup2(written, 2)
        try:
            show()
        finally:
            os.dup2(stderr, 2)
        return os.pread(written, 1 << 20, 0)
    finally:
        os.close(written)
        os.close(stderr)
