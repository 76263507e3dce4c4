"""Small file systems, for tests of full disks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(options: str) -> Iterator[Path]:
    """A file system in memory of its own. The test is skipped if this user can't mount one.

    Args:
        options: options of tmpfs, such as `size=4m,mode=1777`.
    """
    if os.geteuid() != 0:
        pytest.skip("a mount needs root")
    with tempfile.TemporaryDirectory(prefix="qf-disk-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)
