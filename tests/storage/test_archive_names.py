"""Names are read as `unzip` reads them, whichever program wrote the archive; links stay inside the package."""

from __future__ import annotations

import contextlib
import gc
import io
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from qinling_falcon.errors import BadRequest, TooLarge
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from runtimes.python3.qinling_worker.zips.archive import Archive, Limits
from tests.storage.archives import FAT, LINK, NTFS, UNIX, UTF8, Raw, make_zip, raw_zip, unicode_path

LIMITS = ArchiveLimits(max_files=100, max_unpacked_size=1_000_000, max_depth=10)
MAIN = Raw(b"main.py", b"x")
GREAT = "größe-数据.txt"

Check = Callable[[bytes], None]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(data: bytes) -> None:
        path = tmp_path / "package"
        path.write_bytes(data)
        check_zip(path, LIMITS)

    return run


def names(data: bytes) -> list[str]:
    """The files that a package unpacks to."""
    archive = Archive(io.BytesIO(data), Limits(100, 1_000_000))
    return sorted(file.entry.path for file in archive.tree.files)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"./main.py", "main.py"),
        (b"././main.py", "main.py"),
        (b"a/./b.py", "a/b.py"),
        (b"a//b.py", "a/b.py"),
        (b"a/.//./b.py", "a/b.py"),
        (b"a/..b/c..py", "a/..b/c..py"),
        (b"./" * 600 + b"main.py", "main.py"),
    ],
)
def test_what_means_nothing_in_a_name_is_left_out(check: Check, raw: bytes, name: str) -> None:
    data = raw_zip([Raw(b"./"), Raw(raw, b"x")])
    check(data)
    assert names(data) == [name]


@pytest.mark.parametrize("raw", [b"", b".", b"a/.", b"./."])
def test_a_file_without_a_name_is_refused(check: Check, raw: bytes) -> None:
    with pytest.raises(BadRequest, match="an entry without a name"):
        check(raw_zip([MAIN, Raw(raw)]))


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Raw(GREAT.encode(), flags=UTF8, system=FAT), GREAT),
        (Raw(GREAT.encode(), system=UNIX), GREAT),
        (Raw(GREAT.encode(), system=19), GREAT),
        (Raw(b"gr\x94\xe1e.txt", system=FAT), "größe.txt"),
        (Raw(b"gr\x94\xe1e.txt", system=UNIX), "größe.txt"),  # no UTF-8
        (Raw("größe.txt".encode(), system=FAT), "gr├╢├ƒe.txt"),
        (Raw(b"gr__e.txt", system=FAT, extra=unicode_path(b"gr__e.txt", GREAT.encode())), GREAT),
        (Raw(b"gr__e.txt", extra=unicode_path(b"gr__e.txt", GREAT.encode(), checksum=1)), "gr__e.txt"),
        (Raw(b"gr__e.txt", extra=unicode_path(b"gr__e.txt", GREAT.encode(), version=2)), "gr__e.txt"),
        (Raw(b"gr__e.txt", extra=unicode_path(b"gr__e.txt", b"\xff\xfe")), "gr__e.txt"),
        (Raw(b"gr__e.txt", extra=unicode_path(b"gr__e.txt", b"")), "gr__e.txt"),
        (Raw(b"gr__e.txt", extra=unicode_path(b"gr__e.txt", GREAT.encode())[:-1]), "gr__e.txt"),
        (Raw(GREAT.encode(), flags=UTF8, extra=unicode_path(GREAT.encode(), b"other.txt")), GREAT),
    ],
)
def test_the_encoding_of_a_name(check: Check, entry: Raw, name: str) -> None:
    data = raw_zip([entry])
    check(data)
    assert names(data) == [name]


def test_a_name_that_says_to_be_utf8_and_is_not(check: Check) -> None:
    with pytest.raises(BadRequest, match="marked as UTF-8"):
        check(raw_zip([MAIN, Raw(b"gr\x94\xe1e.txt", flags=UTF8)]))


@pytest.mark.parametrize("path", [b"../evil.py", b"/etc/passwd", b"a\n.py", b"main.py/x"])
def test_a_name_of_the_extra_field_is_looked_at_like_any_other(check: Check, path: bytes) -> None:
    with pytest.raises(BadRequest):
        check(raw_zip([MAIN, Raw(b"good.py", extra=unicode_path(b"good.py", path))]))


@pytest.mark.parametrize("system", [FAT, NTFS, 10, 14])
def test_backslashes_of_windows_separate(check: Check, system: int) -> None:
    entries = [Raw(b"folder\\", system=system), Raw(b"folder\\sub\\mod.py", system=system), Raw(b"main.py")]
    data = raw_zip(entries)
    check(data)
    assert names(data) == ["folder/sub/mod.py", "main.py"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"..\\evil.py", "leads out"),
        (b"\\evil.py", "absolute"),
        (b"C:\\evil.py", "Windows"),
        (b"a\\\\..\\b", "leads out"),
    ],
)
def test_paths_of_windows_that_lead_elsewhere(check: Check, name: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        check(raw_zip([MAIN, Raw(name, system=FAT)]))


@pytest.mark.parametrize("name", ["folder\\mod.py", "..\\mod.py", "\\mod.py", "a:b", "C:/mod.py"])
def test_what_separates_on_windows_is_an_ordinary_character_in_archives_of_unix(check: Check, name: str) -> None:
    data = raw_zip([MAIN, Raw(name.encode(), system=UNIX)])
    check(data)
    assert names(data) == sorted(["main.py", name])
    with pytest.raises(BadRequest, match="Windows path"):
        check(raw_zip([MAIN, Raw(name.encode(), system=1)]))


def test_a_control_character_is_named(check: Check) -> None:
    with pytest.raises(BadRequest, match=r"control character U\+000D: 'Icon\?'"):
        check(raw_zip([MAIN, Raw(b"Icon\r")]))


@pytest.mark.parametrize("again", [b"main.py", b"./main.py"])
def test_the_last_of_two_files_of_one_name_is_kept(check: Check, again: bytes) -> None:
    data = raw_zip([MAIN, Raw(again, b"second")])
    check(data)
    archive = Archive(io.BytesIO(data), Limits(100, 1_000_000))
    assert [b"".join(archive.read(file.entry)) for file in archive.tree.files] == [b"second"]


@pytest.mark.parametrize("modes", [(LINK, LINK), (LINK, 0), (0, LINK)])
def test_a_link_of_a_name_that_is_there_is_refused(check: Check, modes: tuple[int, int]) -> None:
    with pytest.raises(BadRequest, match="twice"):
        check(raw_zip([MAIN, *(Raw(b"a", b"main.py", mode=mode) for mode in modes)]))


def test_set_uid_bits_are_left_out(check: Check) -> None:
    data = raw_zip([Raw(b"tool", b"x", mode=0o106755)])
    check(data)
    archive = Archive(io.BytesIO(data), Limits(100, 1_000_000))
    assert [file.entry.is_program for file in archive.tree.files] == [True]


def test_extra_fields_are_bounded_for_an_entry(check: Check) -> None:
    check(raw_zip([Raw(b"main.py", extra=b"\x99\x99\0\0" * 1024)]))
    with pytest.raises(BadRequest, match=r"4100 bytes of extra fields: 'main.py'\. At most 4096 are allowed"):
        check(raw_zip([Raw(b"main.py", extra=b"\x99\x99\0\0" * 1025)]))


def test_extra_fields_are_bounded_in_all(check: Check) -> None:
    entries = [Raw(f"{number}".encode(), extra=b"\x99\x99\0\0" * 1024) for number in range(23)]
    check(raw_zip(entries[:22]))
    with pytest.raises(BadRequest, match="more than 91136 bytes of extra fields in all"):
        check(raw_zip(entries))


def test_files_that_finder_adds_are_files(check: Check) -> None:
    extras = [b"__MACOSX/._main.py", b".DS_Store", b"._main.py"]
    data = raw_zip([MAIN, Raw(b"__MACOSX/"), *(Raw(name, b"\0\5\x16\7") for name in extras)])
    check(data)
    assert names(data) == sorted(["main.py", *(name.decode() for name in extras)])


@pytest.mark.parametrize("zip64_end", ["full", "both"])
@pytest.mark.parametrize("stub", [b"", b"#!/bin/sh\nexit\n"])
@pytest.mark.parametrize("wide", [False, True])
def test_zip64_records_of_small_archives(check: Check, zip64_end: str, stub: bytes, wide: bool) -> None:
    entries = [Raw(b"main.py", b"x" * 100, deflated=True, wide=wide), Raw(b"other.py", b"y", wide=wide)]
    data = raw_zip(entries, zip64_end=zip64_end, stub=stub, comment=b"made by a test")
    check(data)
    assert names(data) == ["main.py", "other.py"]


def test_a_zip64_field_that_is_missing_or_too_short(check: Check) -> None:
    data = raw_zip([Raw(b"main.py", b"x", wide=True)])
    for broken in (data.replace(b"\1\0\x18\0", b"\2\0\x18\0"), data.replace(b"\1\0\x18\0", b"\1\0\x08\0")):
        with pytest.raises(BadRequest, match="broken"):
            check(broken)


def test_a_comment_that_looks_like_the_end(check: Check) -> None:
    inner = raw_zip([Raw(b"evil.py", b"x")])
    data = raw_zip([MAIN], comment=b"before " + inner + b" after")
    check(data)
    assert names(data) == ["main.py"]


def linked(*links: tuple[str, str], more: tuple[Raw, ...] = ()) -> bytes:
    entries = [Raw(name.encode(), target.encode(), mode=LINK) for name, target in links]
    return raw_zip([*entries, Raw(b"lib/1/mod.py", b"x"), MAIN, *more])


@pytest.mark.parametrize(
    "links",
    [
        [("a", "main.py")],
        [("a", "./lib//1/")],
        [("lib/current", "1")],
        [("lib/1/up", "../../main.py")],
        [("lib/top", "..")],
        [("a", "b"), ("b", "c"), ("c", "lib"), ("d", "c/1/mod.py")],
        [("a", "not/there")],
        [("a", "lib/1/mod.py/../x")],
        [("lib/1/in", "../.."), ("out", "lib/1/in/lib/1/in/main.py")],
    ],
)
def test_links_that_stay_inside_are_kept(check: Check, links: list[tuple[str, str]]) -> None:
    data = linked(*links)
    check(data)
    archive = Archive(io.BytesIO(data), Limits(100, 1_000_000))
    assert sorted((link.entry.path, archive.target(link)) for link in archive.tree.links) == sorted(links)


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ([("a", "/etc/passwd")], "absolute"),
        ([("a", "..")], "leads out"),
        ([("lib/a", "../../main.py")], "leads out"),
        ([("a", "lib/../../b")], "leads out"),
        ([("a", "not/there/../../..")], "leads out"),
        # By its text `b/..` is the package; but `b` leads one folder up, so that it is the folder above the package.
        ([("lib/b", ".."), ("a", "lib/b/..")], "leads out"),
        ([("lib/1/x", "../.."), ("lib/1/y", "x/..")], "leads out"),
        ([("a", "b"), ("b", "a")], "circle"),
        ([("a", "a")], "circle"),
        ([("a", "lib/x"), ("lib/x", "../a/..")], "circle"),
        ([("a", "")], "not a path"),
        ([("a", "x\0y")], "not a path"),
        ([("a", "b" * 1001)], "too long"),
        ([(f"l{number}", f"l{number + 1}") for number in reversed(range(41))], "more than 40"),
        ([(f"l{number}", f"l{number + 1}") for number in range(90)], "more than 40"),
        ([("lib/top", ".."), ("a", "lib/top/" * 40 + "main.py")], "more than 40"),
        ([("a/", "main.py")], "both a file and a folder"),
    ],
)
def test_links_that_lead_elsewhere_are_refused(check: Check, links: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        check(linked(*links))


@pytest.mark.parametrize("name", [b"a/evil.py", b"a/", b"a"])
def test_nothing_lies_below_a_link(check: Check, name: bytes) -> None:
    for data in (linked(("a", "lib"), more=(Raw(name),)), raw_zip([Raw(name), MAIN, Raw(b"a", b"lib", mode=LINK)])):
        with pytest.raises(BadRequest, match=r"both as a file and as a folder|twice"):
            check(data)


def test_a_links_target_is_held_against_its_checksum(check: Check) -> None:
    with pytest.raises(BadRequest, match="not what it declares"):
        check(linked(("a", "not/there")).replace(b"not/there", b"not/three"))


def test_a_package_of_links_alone_is_empty(check: Check) -> None:
    with pytest.raises(BadRequest, match="empty"):
        check(raw_zip([Raw(b"a", b"b", mode=LINK)]))


def test_many_links_through_each_other_take_little_time() -> None:
    links = [Raw(f"l{number}".encode(), b"./" * 490 + b"deep/main.py", mode=LINK) for number in range(5000)]
    chain = [Raw(f"c{number}".encode(), f"c{number + 1}".encode(), mode=LINK) for number in range(39)]
    data = raw_zip([*links, *chain, Raw(b"c39", b"deep", mode=LINK), Raw(b"deep/main.py")])
    began = time.process_time()
    archive = Archive(io.BytesIO(data), Limits(10_000, 10_000_000))
    assert len(list(archive.tree.links)) == 5040
    assert time.process_time() - began < 20


def test_a_long_chain_of_links_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "package"
    links = [Raw(f"l{number}".encode(), f"l{number + 1}".encode(), mode=LINK) for number in range(5000)]
    path.write_bytes(raw_zip([MAIN, *links]))
    with pytest.raises(BadRequest, match="more than 40"):
        check_zip(path, ArchiveLimits(10_000, 1_000_000))


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
    """The entries after it are broken, which would be the message of a reader that collects links first."""
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
