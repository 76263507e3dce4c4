"""Packages of many, deep or long names are bounded, and are checked in little memory."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from qinling_falcon.errors import BadRequest, TooLarge
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from tests.storage.archives import LINK, MAIN, Raw, make_zip, raw_zip
from tests.storage.conftest import Check


def test_folders_that_names_imply_count(check: Check) -> None:
    check(make_zip({f"{number}/main.py": b"" for number in range(50)}))
    check(make_zip([item for number in range(50) for item in ((f"{number}/", b""), (f"{number}/main.py", b""))]))
    for entries in (
        {f"{number}/main.py": b"" for number in range(51)},
        {f"{n}/a/b/c/d/e/f.py": b"" for n in range(15)},
    ):
        with pytest.raises(TooLarge, match=r"more than 100 entries .*MAX_PACKAGE_FILES"):
            check(make_zip(entries))


def test_folders_in_each_other_are_bounded(check: Check) -> None:
    check(make_zip({"a/" * 10 + "main.py": b"", "b/" * 10: b""}))
    for name in ("a/" * 11 + "main.py", "a/" * 11):
        with pytest.raises(BadRequest, match=r"11 folders deep.*At most 10 are allowed \(MAX_PACKAGE_DEPTH\)"):
            check(make_zip({"main.py": b"", name: b""}))


@pytest.mark.parametrize("depth", [100, 496])
def test_deep_names_cost_little_memory(tmp_path: Path, depth: int) -> None:
    """When the reader stored a text for each folder of each name, this took 580 MiB."""
    path = tmp_path / "package"
    path.write_bytes(raw_zip([Raw(f"{number:04}/".encode() + b"a/" * depth + b"b") for number in range(2000)]))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="more than 10000 entries"):
            check_zip(path, ArchiveLimits(10_000, 1_000_000, max_depth=500))
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_the_depth_of_a_link_is_checked_before_the_next_entry_is_read(check: Check) -> None:
    """The entry after it is broken. A reader that collected the links first would report that entry."""
    data = raw_zip([MAIN, Raw(b"a/" * 11 + b"link", b"x", mode=LINK), Raw(b"evil\0")])
    with pytest.raises(BadRequest, match="11 folders deep"):
        check(data)


def _deep_links() -> Iterable[Raw]:
    for number in range(9_000):
        yield Raw(b"/".join(b"%02d" % ((number + part) % 100) for part in range(332)), b"x", mode=LINK)


def _files_in_deep_folder() -> Iterable[Raw]:
    folders = b"/".join(b"%09d" % part for part in range(98))
    return (Raw(folders + b"/%09d" % number) for number in range(9_890))


def _links_with_long_targets() -> Iterable[Raw]:
    target = ("a" * 200 + "/") * 4 + "a" * 180 + "\U0001f600"
    return (Raw(b"%05d" % number + b"n" * 245, target.encode(), mode=LINK) for number in range(9_990))


def _long_names() -> Iterable[Raw]:
    return (Raw(b"%05d" % number + b"n" * 240 + "\U0001f600".encode()) for number in range(9_990))


def _names_with_dots() -> Iterable[Raw]:
    return (Raw(b"./" * 990 + b"%05d" % number) for number in range(9_990))


def _folders() -> Iterable[Raw]:
    return (Raw(b"%05d/" % number) for number in range(9_990))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (_deep_links, "332 folders deep|331 folders deep"),
        (_files_in_deep_folder, None),
        (_links_with_long_targets, None),
        (_long_names, None),
        (_names_with_dots, None),
        (_folders, None),
    ],
)
def test_an_archive_of_many_entries_is_checked_in_little_memory(
    tmp_path: Path, entries: Callable[[], Iterable[Raw]], message: str | None
) -> None:
    """With the parts of each name kept, the first took 300 MiB and the second 80 MiB."""
    path = tmp_path / "package"
    path.write_bytes(raw_zip([MAIN, *entries()]))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match=message) if message else contextlib.nullcontext():
            check_zip(path, ArchiveLimits(10_000, 20_000_000, max_depth=100))
        assert tracemalloc.get_traced_memory()[1] < 15 << 20
    finally:
        tracemalloc.stop()


def test_the_tree_leaves_no_memory_to_the_garbage_collector(tmp_path: Path) -> None:
    path = tmp_path / "package"
    path.write_bytes(raw_zip([MAIN, *(Raw(b"a/%d/b" % number) for number in range(4_000))]))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        check_zip(path, ArchiveLimits(10_000, 1_000_000))
        with pytest.raises(TooLarge):
            check_zip(path, ArchiveLimits(4_001, 1_000_000))
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
        gc.enable()


def test_names_that_mean_little_are_not_kept(check: Check) -> None:
    with pytest.raises(BadRequest, match="too long"):
        check(raw_zip([MAIN, Raw(b"./" * 2100 + b"mod.py")]))
    with pytest.raises(TooLarge, match="more than 100 entries"):
        check(raw_zip([MAIN, *[Raw(b"./")] * 100]))
