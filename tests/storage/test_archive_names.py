"""Names are read as `unzip` reads them, whichever program wrote the archive."""

from __future__ import annotations

import io

import pytest

from qinling_falcon.errors import BadRequest
from runtimes.python3.qinling_worker.zips.archive import Archive, Limits
from tests.storage.archives import FAT, LINK, MAIN, NTFS, UNIX, UTF8, Raw, raw_zip, unicode_path
from tests.storage.conftest import Check

GREAT = "größe-数据.txt"


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
