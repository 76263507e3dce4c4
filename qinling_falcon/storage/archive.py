"""Checks of uploaded zip archives, without unpacking anything to disk.

An archive is read twice: its directory, and every entry's data, which is inflated
and thrown away. What passes unpacks to exactly what its directory says, in any
program that can read zips, below the folder that it is unpacked in.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qinling_falcon.errors import BadRequest, TooLarge

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR_SIZE = 20
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENCRYPTED = 0x1 | 0x20 | 0x40 | 0x2000
_CHUNK = 256 * 1024
_MAX_NAME = 1000
_MAX_PART = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The largest archive that is taken: entries, and bytes when unpacked."""

    max_files: int
    max_unpacked_size: int


def check_zip(path: Path, limits: ArchiveLimits) -> None:
    """Make sure that an archive can be unpacked safely.

    Raises:
        BadRequest: it is no zip, is broken, or holds something that a package may not hold; the message says what.
        TooLarge: it has too many entries, or unpacks to too much.
    """
    with path.open("rb") as file:
        _check_count(file, limits)
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                directory = archive.start_dir
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OverflowError) as error:
            raise BadRequest(f"The package is not a zip archive that can be read: {error}.") from error
        _check_names(entries)
        for entry in entries:
            _check_kind(entry)
        declared = sum(entry.file_size for entry in entries)
        if declared > limits.max_unpacked_size:
            raise TooLarge(f"The package unpacks to {declared} bytes: at most {limits.max_unpacked_size} are allowed.")
        _check_spans(entries, file, directory)
        for entry in entries:
            _check_data(entry, file)


def _check_count(file: BinaryIO, limits: ArchiveLimits) -> None:
    """Count the directory's entries before anything is kept in memory for each of them."""
    start, size = _directory(file)
    file.seek(start)
    count, left = 0, size
    while left >= _CENTRAL.size:
        header = file.read(_CENTRAL.size)
        if len(header) < _CENTRAL.size or header[:4] != b"PK\x01\x02":
            raise BadRequest("The package is not a zip archive that can be read: its directory is broken.")
        count += 1
        if count > limits.max_files:
            raise TooLarge(f"The package has more than {limits.max_files} entries.")
        variable = sum(_CENTRAL.unpack(header)[10:13])
        file.seek(variable, 1)
        left -= _CENTRAL.size + variable


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Offset and size of the central directory."""
    end = file.seek(0, 2)
    tail_start = max(0, end - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise BadRequest("The package is not a zip archive.")
    position = tail_start + found
    size = _END.unpack_from(tail, found)[5]
    locator = position - _END64_LOCATOR_SIZE
    if locator >= _END64.size:
        file.seek(locator - _END64.size)
        before = file.read(_END64.size + 4)
        if before[_END64.size :] == b"PK\x06\x07" and before[:4] == b"PK\x06\x06":
            position, size = locator - _END64.size, _END64.unpack_from(before)[8]
    if size > position:
        raise BadRequest("The package is not a zip archive that can be read: its directory is broken.")
    return position - size, size


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        parts = _parts(entry.orig_filename)
        name = "/".join(parts)
        if entry.is_dir():
            folders.add(name)
        elif not parts:
            raise BadRequest("The package holds an entry without a name.")
        elif name in files:
            raise BadRequest(f"The package holds '{_shown(name)}' twice.")
        else:
            files.add(name)
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if not files:
        raise BadRequest("The package is empty.")
    both = files & folders
    if both:
        raise BadRequest(f"The package holds '{_shown(min(both))}' both as a file and as a folder.")


def _parts(name: str) -> list[str]:
    shown = _shown(name)
    if _CONTROL.search(name):
        raise BadRequest(f"The package holds a name with control characters: '{shown}'.")
    if "\\" in name or _DRIVE.match(name):
        raise BadRequest(f"The package holds a Windows path: '{shown}'.")
    if name.startswith("/"):
        raise BadRequest(f"The package holds an absolute path: '{shown}'.")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadRequest(f"The package holds a path that leads out of it: '{shown}'.")
    if len(name.encode()) > _MAX_NAME or any(len(part.encode()) > _MAX_PART for part in parts):
        raise BadRequest(f"The package holds a name that is too long: '{shown}'.")
    return parts


def _check_kind(entry: zipfile.ZipInfo) -> None:
    name = _shown(entry.orig_filename)
    mode = entry.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadRequest(f"The package holds a link or a special file: '{name}'.")
    if kind and (kind == stat.S_IFDIR) != entry.is_dir():
        raise BadRequest(f"The package holds '{name}', which is both a file and a folder.")
    if not entry.is_dir() and mode & (stat.S_ISUID | stat.S_ISGID):
        raise BadRequest(f"The package holds a file with a set-uid or set-gid bit: '{name}'.")
    if entry.flag_bits & _ENCRYPTED:
        raise BadRequest(f"The package holds an encrypted entry: '{name}'.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadRequest(f"The package holds an entry with a compression other than deflate: '{name}'.")
    if entry.is_dir() and (entry.file_size or entry.compress_size > 2):
        raise BadRequest(f"The package holds a folder with data in it: '{name}'.")


def _check_spans(entries: list[zipfile.ZipInfo], file: BinaryIO, directory: int) -> None:
    """No two entries may share data, which is how a small archive unpacks to very much."""
    reached = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        end = _data_offset(entry, file) + entry.compress_size
        if entry.header_offset < reached or end > directory:
            raise BadRequest(f"The package holds entries that overlap: '{_shown(entry.orig_filename)}'.")
        reached = end


def _data_offset(entry: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Where an entry's data begins; its own header must say what the directory says."""
    file.seek(max(0, entry.header_offset))
    header = file.read(_LOCAL.size)
    broken = BadRequest(f"The package holds a broken entry: '{_shown(entry.orig_filename)}'.")
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise broken
    fields: tuple[int, ...] = _LOCAL.unpack(header)[2:]
    flags, method, name_size, extra_size = fields[0], fields[1], fields[-2], fields[-1]
    name = file.read(name_size)
    try:
        decoded = name.decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError as error:
        raise broken from error
    if method != entry.compress_type or flags & _ENCRYPTED or decoded != entry.orig_filename:
        raise broken
    return entry.header_offset + _LOCAL.size + name_size + extra_size


def _check_data(entry: zipfile.ZipInfo, file: BinaryIO) -> None:
    """Inflate an entry, never more than it declares, and compare size and checksum."""
    file.seek(_data_offset(entry, file))
    inflater = zlib.decompressobj(-15) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    left, size, checksum = entry.compress_size, 0, 0
    broken = BadRequest(f"The package holds an entry that is not what it declares: '{_shown(entry.orig_filename)}'.")
    while left > 0:
        data = file.read(min(left, _CHUNK))
        if not data:
            raise broken
        left -= len(data)
        while data:
            try:
                plain = inflater.decompress(data, _CHUNK) if inflater else data
            except zlib.error as error:
                raise broken from error
            size += len(plain)
            checksum = zlib.crc32(plain, checksum)
            if size > entry.file_size or (inflater and inflater.unused_data):
                raise broken
            data = inflater.unconsumed_tail if inflater else b""
    if inflater:
        rest = inflater.flush()
        size, checksum = size + len(rest), zlib.crc32(rest, checksum)
    complete = inflater is None or inflater.eof or entry.compress_size == 0
    if size != entry.file_size or checksum != entry.CRC or not complete:
        raise broken


def _shown(name: str) -> str:
    return _CONTROL.sub("?", name[:80])
