"""Hostile archives are refused with a clear reason, before anything of them reaches a disk."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest

from qinling_falcon.errors import BadRequest, TooLarge
from tests.storage.archives import make_zip

Check = Callable[[bytes], None]


def test_ordinary_archives_are_taken(check: Check) -> None:
    check(make_zip({"main.py": b"def main(): pass", "package/": b"", "package/data.bin": bytes(5000), "ä.txt": b"x"}))
    check(make_zip({"main.py": b"x" * 5000}, compression=zipfile.ZIP_STORED))
    check(make_zip({"./main.py": b"", "a//b.py": b""}))
    check(b"#!/bin/sh\n" + make_zip({"main.py": b"x"}))
    check(make_zip({"main.py": b"x"}) + b"")
    check(make_zip({f"{number}.py": b"" for number in range(100)}))


def test_an_archive_that_was_written_as_a_stream(check: Check) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", b"x" * 1000)
        archive.writestr("other.py", b"y" * 1000)
    check(pipe.getvalue())


def test_an_archive_with_zip64_records(check: Check) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("main.py", "w", force_zip64=True) as file:
        file.write(b"x" * 1000)
    check(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip" * 100, b"PK\x05\x06"])
def test_what_is_no_zip(check: Check, data: bytes) -> None:
    with pytest.raises(BadRequest, match="not a zip archive"):
        check(data)


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04" + bytes(100), make_zip({"main.py": b"x" * 1000})[:-30]],
    ids=["zeros behind its mark", "without its end"],  # its bytes hold the time, and would differ between processes
)
def test_the_beginning_of_a_zip(check: Check, data: bytes) -> None:
    with pytest.raises(BadRequest, match="The package is cut off"):
        check(data)


@pytest.mark.parametrize("entries", [{}, {"folder/": b""}])
def test_an_empty_zip(check: Check, entries: dict[str, bytes]) -> None:
    with pytest.raises(BadRequest, match="empty"):
        check(make_zip(entries))


@pytest.mark.parametrize("cut", [1, 10, 40, 200])
def test_a_zip_that_was_cut(check: Check, cut: int) -> None:
    with pytest.raises(BadRequest):
        check(make_zip({"main.py": bytes(range(256))})[:-cut])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../main.py", "leads out"),
        ("a/../../main.py", "leads out"),
        ("..", "leads out"),
        ("/etc/passwd", "absolute"),
        ("//etc/passwd", "absolute"),
        ("a\x01.py", "control"),
        ("a\n.py", "control"),
        ("a\x7f.py", "control"),
        ("a" * 256, "too long"),
        ("a/" * 600 + "b", "too long"),
        (".", "without a name"),
    ],
)
def test_names_that_lead_elsewhere(check: Check, name: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        check(make_zip({"main.py": b"", name: b"x"}))


def test_a_name_with_nul(check: Check) -> None:
    with pytest.raises(BadRequest, match="control"):
        check(make_zip({"main.py": b"x", "evil_.sh": b"x"}).replace(b"evil_", b"evil\0"))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "a/b"], "both as a file and as a folder"),
        (["a/b", "a"], "both as a file and as a folder"),
        (["a", "a/"], "both as a file and as a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_clash(check: Check, names: list[str], reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        check(make_zip([(name, b"") for name in names]))


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (stat.S_IFLNK | 0o777, "link"),
        (stat.S_IFIFO | 0o644, "special"),
        (stat.S_IFCHR | 0o644, "special"),
        (stat.S_IFBLK | 0o644, "special"),
        (stat.S_IFSOCK | 0o644, "special"),
        (stat.S_IFDIR | 0o755, "both a file and a folder"),
    ],
)
def test_links_and_special_files(check: Check, mode: int, reason: str) -> None:
    entry = zipfile.ZipInfo("evil")
    entry.external_attr = mode << 16
    with pytest.raises(BadRequest, match=reason):
        check(make_zip([("main.py", b""), (entry, b"/etc/passwd")]))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(check: Check, method: int) -> None:
    with pytest.raises(BadRequest, match="deflate"):
        check(make_zip({"main.py": b"x" * 100}, compression=method))


def patched(data: bytes, *, central: int | None = None, local: int | None = None, value: bytes) -> bytes:
    """Change a field of the first entry, at an offset in its header in the directory, or beside its data."""
    changed = bytearray(data)
    if central is not None:
        start = data.index(b"PK\x01\x02") + central
        changed[start : start + len(value)] = value
    if local is not None:
        start = data.index(b"PK\x03\x04") + local
        changed[start : start + len(value)] = value
    return bytes(changed)


def test_encrypted_entries(check: Check) -> None:
    data = make_zip({"main.py": b"x" * 100})
    with pytest.raises(BadRequest, match="encrypted"):
        check(patched(data, central=8, value=b"\x01\x00"))
    with pytest.raises(BadRequest, match="broken"):
        check(patched(data, local=6, value=b"\x01\x00"))


def test_a_header_that_contradicts_the_directory(check: Check) -> None:
    data = make_zip({"main.py": b"x" * 100})
    with pytest.raises(BadRequest, match="broken"):
        check(patched(data, local=30, value=b"evil.py"))
    with pytest.raises(BadRequest, match="broken"):
        check(patched(data, local=8, value=b"\x00\x00"))
    with pytest.raises(BadRequest, match="broken"):
        check(patched(data, local=0, value=b"XX"))


def test_a_folder_with_data(check: Check) -> None:
    with pytest.raises(BadRequest, match="folder with data"):
        check(make_zip({"main.py": b"", "folder/": b"x" * 100}))


def test_data_that_ends_too_early_or_too_late(check: Check) -> None:
    content = b"x" * 1000
    deflate = zlib.compressobj(wbits=-15)
    endless = deflate.compress(content) + deflate.flush(zlib.Z_SYNC_FLUSH)  # all of it, but no end of the stream
    ended = endless + deflate.flush()
    check(deflated(ended, content))
    for data in (endless, ended + b"more"):
        with pytest.raises(BadRequest, match="not what it declares"):
            check(deflated(data, content))


def deflated(data: bytes, content: bytes) -> bytes:
    """An archive of one entry, `data`, which is said to be the compressed `content`."""
    stored = make_zip({"main.py": data}, compression=zipfile.ZIP_STORED)
    # Method; checksum and both sizes: what the headers hold of them, beside the data and in the directory.
    told = struct.pack("<LLL", zlib.crc32(content), len(data), len(content))
    return patched(patched(stored, central=10, local=8, value=b"\x08\x00"), central=16, local=14, value=told)


def test_no_more_is_inflated_than_an_entry_declares(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data, start=0: (inflated.append(len(data)), crc32(data, start))[1])
    bomb = patched(make_zip({"bomb": bytes(50_000_000)}), central=24, local=22, value=struct.pack("<L", 1000))
    inflated.clear()
    with pytest.raises(BadRequest, match="not what it declares"):
        check(bomb)
    assert sum(inflated) < 1_000_000


def test_a_bomb_that_says_so(check: Check) -> None:
    with pytest.raises(TooLarge, match="unpacks to"):
        check(make_zip({"bomb": bytes(1_000_001)}))
    with pytest.raises(TooLarge, match="unpacks to"):
        check(make_zip({str(number): bytes(20_000) for number in range(51)}))


def test_a_bomb_that_lies(check: Check) -> None:
    bomb = make_zip({"bomb": bytes(50_000_000)})
    for size in (0, 1, 999_999):
        lie = struct.pack("<L", size)
        with pytest.raises(BadRequest, match="not what it declares"):
            check(patched(bomb, central=24, local=22, value=lie))


def test_a_bomb_whose_checksum_fits_the_lie(check: Check) -> None:
    bomb = make_zip({"bomb": bytes(50_000_000)})
    checksum = struct.pack("<L", zlib.crc32(bytes(1000)))
    size = struct.pack("<L", 1000)
    bomb = patched(patched(bomb, central=24, local=22, value=size), central=16, local=14, value=checksum)
    with pytest.raises(BadRequest, match="not what it declares"):
        check(bomb)


def test_wrong_checksums_and_sizes(check: Check) -> None:
    data = make_zip({"main.py": b"x" * 1000})
    stored = make_zip({"main.py": b"x" * 1000}, compression=zipfile.ZIP_STORED)
    for broken in (
        patched(data, central=16, value=b"abcd"),
        patched(data, central=24, value=struct.pack("<L", 2000)),
        patched(stored, central=24, value=struct.pack("<L", 900)),
        patched(stored, central=16, value=b"abcd"),
    ):
        with pytest.raises(BadRequest, match="not what it declares"):
            check(broken)


def test_entries_that_share_their_data(check: Check) -> None:
    """A quoted-overlap bomb: two entries of the directory, one piece of data."""
    data = make_zip([("a.bin", b"x" * 1000), ("b.bin", b"y" * 1000)])
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    changed = bytearray(data)
    changed[second + 42 : second + 46] = struct.pack("<L", 0)
    changed[second + 46 : second + 51] = b"a.bin"
    with pytest.raises(BadRequest):
        check(bytes(changed))
    overlapping = make_zip([("a.bin", b"x" * 1000), ("b.bin", b"y" * 1000)], compression=zipfile.ZIP_STORED)
    with pytest.raises(BadRequest, match="overlap"):
        check(
            patched(
                patched(overlapping, central=20, value=struct.pack("<L", 1010)),
                central=24,
                value=struct.pack("<L", 1010),
            )
        )


def test_data_that_reaches_into_the_directory(check: Check) -> None:
    """The entry's checksum is correct for its own data followed by the first bytes of the directory."""
    data = make_zip({"main.py": b"x" * 100}, compression=zipfile.ZIP_STORED)
    start = data.index(b"PK\x01\x02")
    told = struct.pack("<LLL", zlib.crc32(b"x" * 100 + data[start : start + 10]), 110, 110)
    with pytest.raises(BadRequest, match="overlap"):
        check(patched(data, central=16, local=14, value=told))


def test_too_many_entries(check: Check) -> None:
    with pytest.raises(TooLarge, match="more than 100 entries"):
        check(make_zip({f"{number}.py": b"" for number in range(101)}))


def test_a_hundred_thousand_entries(check: Check) -> None:
    with pytest.raises(TooLarge, match="entries"):
        check(make_zip({f"{number}": b"" for number in range(100_000)}))


def test_a_number_of_entries_that_lies(check: Check) -> None:
    data = bytearray(make_zip({f"{number}.py": b"" for number in range(101)}))
    end = data.rindex(b"PK\x05\x06")
    data[end + 8 : end + 12] = struct.pack("<HH", 1, 1)
    with pytest.raises(TooLarge, match="entries"):
        check(bytes(data))


def test_random_damage_is_never_an_unexpected_error(check: Check) -> None:
    data = make_zip({"main.py": b"x" * 100, "folder/": b"", "folder/b.py": bytes(range(200))})
    for place in range(len(data)):
        for value in (0x00, 0xFF, data[place] ^ 0x01):
            broken = bytearray(data)
            broken[place] = value
            try:
                check(bytes(broken))
            except (BadRequest, TooLarge) as error:
                assert error.message
