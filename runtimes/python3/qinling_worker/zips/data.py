"""Finds and inflates the data of entries, and checks it against the directory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from .directory import DEFLATED, ENCRYPTED, Entry
from .errors import ZipError

CHUNK = 256 * 1024
_LOCAL = struct.Struct("<4s5H3L2H")
_UTF8 = 0x800


def check_spans(file: IO[bytes], entries: Iterable[Entry], end: int, pause: Callable[[], None]) -> None:
    """Find the data of all entries, which must end before the offset `end`.

    Overlapping entries are refused, because they let a small archive unpack to a huge tree. `pause` is called before
    each entry.

    Raises:
        ZipError: an entry's own header contradicts the directory, or entries overlap.
    """
    reached = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        pause()
        entry.data_offset = _data_offset(file, entry, end)
        data_end = entry.data_offset + entry.compressed_size
        if entry.header_offset < reached or data_end > end:
            raise ZipError(f"The package holds entries that overlap: '{entry.shown}'.")
        reached = data_end


def read(file: IO[bytes], entry: Entry) -> Iterator[bytes]:
    """Inflate an entry piece by piece, never more than its declared size.

    Raises:
        ZipError: the size or the checksum differs from the declared one. Raised as soon as this is known.
    """
    inflater = zlib.decompressobj(-15) if entry.method == DEFLATED else None
    position, left, size, checksum = entry.data_offset, entry.compressed_size, 0, 0
    while left > 0:
        file.seek(position)
        data = file.read(min(left, CHUNK))
        if not data:
            raise _unlike(entry)
        position += len(data)
        left -= len(data)
        while data:
            try:
                plain = inflater.decompress(data, CHUNK) if inflater else data
            except zlib.error:
                raise _unlike(entry) from None
            size += len(plain)
            if size > entry.size or (inflater and inflater.unused_data):
                raise _unlike(entry)
            checksum = zlib.crc32(plain, checksum)
            yield plain
            data = inflater.unconsumed_tail if inflater else b""
    if inflater:
        rest = inflater.flush()
        size, checksum = size + len(rest), zlib.crc32(rest, checksum)
        if size <= entry.size:
            yield rest
    complete = inflater is None or inflater.eof or entry.compressed_size == 0
    if size != entry.size or checksum != entry.checksum or not complete:
        raise _unlike(entry)


def _data_offset(file: IO[bytes], entry: Entry, end: int) -> int:
    """The offset of an entry's data. The entry's own header must match the directory."""
    if not 0 <= entry.header_offset < end:
        raise _broken(entry)
    file.seek(entry.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
        raise _broken(entry)
    fields: tuple[int, ...] = _LOCAL.unpack(header)[1:]
    flags, method, name_size, extra_size = fields[1], fields[2], fields[-2], fields[-1]
    own_name = file.read(name_size)
    file.seek(entry.name_offset)
    raw_name = file.read(entry.name_size)
    if own_name != raw_name and _plain(own_name, flags) != _plain(raw_name, entry.flags):
        raise _broken(entry)
    if method != entry.method or flags & ENCRYPTED:
        raise _broken(entry)
    return entry.header_offset + _LOCAL.size + name_size + extra_size


def _broken(entry: Entry) -> ZipError:
    return ZipError(f"The package holds a broken entry: '{entry.shown}'.")


def _unlike(entry: Entry) -> ZipError:
    return ZipError(f"The package holds an entry that is not what it declares: '{entry.shown}'.")


def _plain(raw_name: bytes, flags: int) -> str | None:
    """Decode a name by its flags alone. Some programs encode the two copies of a name differently."""
    try:
        return raw_name.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        return None
