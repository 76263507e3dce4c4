"""Archives for tests."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


def make_zip(
    entries: Mapping[str, bytes] | Iterable[tuple[str | zipfile.ZipInfo, bytes]],
    compression: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """A zip archive with these names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items() if isinstance(entries, Mapping) else entries:
            archive.writestr(name, data)
    return buffer.getvalue()


FAT, UNIX, NTFS = 0, 3, 11
LINK = stat.S_IFLNK | 0o777
UTF8 = 0x800


@dataclass(frozen=True)
class Raw:
    """An entry as bytes, for contents that other programs write and `zipfile` does not.

    Attributes:
        name: the name's bytes.
        system: what it says that it was made on.
        wide: its sizes and offset are in a ZIP64 field.
    """

    name: bytes
    data: bytes = b""
    system: int = UNIX
    mode: int = 0
    flags: int = 0
    extra: bytes = b""
    deflated: bool = False
    wide: bool = False


def raw_zip(entries: Iterable[Raw], *, stub: bytes = b"", comment: bytes = b"", zip64_end: str = "") -> bytes:
    """An archive of these entries.

    Args:
        entries: in this order.
        stub: stands before it.
        comment: stands at its end.
        zip64_end: "": no ZIP64 record; "full": the plain record's fields say that there is one; "both": they don't.
    """
    body, directory = bytearray(), bytearray()
    entries = list(entries)
    for entry in entries:
        data = entry.data
        if entry.deflated:
            deflate = zlib.compressobj(wbits=-15)
            data = deflate.compress(data) + deflate.flush()
        sizes = (len(data), len(entry.data))
        method = 8 if entry.deflated else 0
        common = (entry.flags, method, 0, 0x21, zlib.crc32(entry.data))
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *common, *sizes, len(entry.name), 0) + entry.name
        extra, shown = entry.extra, (*sizes, len(body))
        if entry.wide:
            extra += struct.pack("<2H3Q", 1, 24, sizes[1], sizes[0], len(body))
            shown = (0xFFFFFFFF,) * 3
        directory += struct.pack(
            "<4s2B5H3L5H2L", b"PK\1\2", 20, entry.system, 20, *common, *shown[:2], len(entry.name), len(extra), 0, 0, 0,
            entry.mode << 16, shown[2],
        ) + entry.name + extra  # fmt: skip
        body += local + data
    end: tuple[int, ...] = (len(entries), len(entries), len(directory), len(body))
    records = b""
    if zip64_end:
        records = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *end)
        records += struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1)
        if zip64_end == "full":
            end = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    records += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *end, len(comment))
    return stub + bytes(body + directory) + records + comment


def unicode_path(raw: bytes, text: bytes, *, checksum: int | None = None, version: int = 1) -> bytes:
    """Info-ZIP's extra field that says what a name is in UTF-8."""
    field = struct.pack("<BL", version, zlib.crc32(raw) if checksum is None else checksum) + text
    return struct.pack("<2H", 0x7075, len(field)) + field


MAIN = Raw(b"main.py", b"x")
