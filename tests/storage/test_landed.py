"""Packages from another machine are stored completely or not at all before they are sent to clients."""

from __future__ import annotations

import io
import resource
from pathlib import Path

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.storage.spool import landed


def test_it_is_a_file_that_has_no_name_and_is_gone_with_its_reader(tmp_path: Path) -> None:
    file, size = landed(io.BytesIO(b"zip" * 1_000_000), tmp_path / "new")
    assert (size, file.read(), file.read()) == (3_000_000, b"zip" * 1_000_000, b"")
    assert list((tmp_path / "new").iterdir()) == []
    file.close()


@pytest.mark.parametrize("size", [10_001, 5_000_000], ids=["a small package", "a large one"])
def test_a_disk_that_takes_no_more_is_a_503(tmp_path: Path, size: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(Unavailable, match="disk can't take"):
            landed(io.BytesIO(bytes(size)), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    class Cut:
        def read(self, size: int, /) -> bytes:
            raise Unavailable("broken off")

    with pytest.raises(Unavailable, match="broken off"):
        landed(Cut(), tmp_path)
    assert list(tmp_path.iterdir()) == []
