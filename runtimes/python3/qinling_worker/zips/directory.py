"""Finds the central directory of an archive and reads its entries."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

from . import names
from .errors import ZipError, ZipTooLarge, shown

if TYPE_CHECKING:
    from .tree import Folder

STORED, DEFLATED = 0, 8
ENCRYPTED = 0x1 | 0x20 | 0x40 | 0x2000

_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\5\6"
_LOCAL_MARK = b"PK\3\4"
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_HEAD = 12  # the record's own size does not count its mark and itself
_MAX_COMMENT = 0xFFFF
_ZIP64 = 1
_FULL = 0xFFFFFFFF  # means that the number is in the ZIP64 field
_MAX_RAW_NAME = 2000
# Extra fields are read in Python, field by field. What `zip` and Windows write has less than 100 bytes per entry.
_MAX_EXTRA = 4096
_MEAN_EXTRA = 256
_FREE_EXTRA = 64 * 1024
_MAX_FOLDER_DATA = 2  # some programs deflate the empty data of a folder, which gives two bytes


class Entry:
    """One entry of the directory.

    It stores neither its path nor the name's bytes: 10,000 paths of 1,000 characters would need tens of megabytes.

    Attributes:
        parent: the folder that it lies in; set by the tree. None: the entry is the package's top folder.
        name: its own name in that folder, in UTF-8; set by the tree.
        name_offset, name_size: where its whole name is in the file.
        data_offset: the offset of its data in the file; set by `data.check_spans`.
    """

    __slots__ = (
        "checksum", "compressed_size", "data_offset", "flags", "header_offset", "is_link", "is_program", "method",
        "name", "name_offset", "name_size", "parent", "size",
    )  # fmt: skip

    def __init__(self, header: tuple[int, ...], name: names.Name, extra: bytes, name_offset: int) -> None:
        _, _, flags, method, _, _, checksum, compressed_size, size, name_size, _, _, _, _, attributes, offset = header
        mode = attributes >> 16
        self.parent: Folder | None = None
        self.name = b""
        self.name_offset = name_offset
        self.name_size = name_size
        self.flags = flags
        self.method = method
        self.checksum = checksum
        self.size, self.compressed_size, self.header_offset = _wide((size, compressed_size, offset), extra)
        self.data_offset = 0
        self.is_link = stat.S_IFMT(mode) == stat.S_IFLNK
        self.is_program = bool(mode & 0o111)  # set-uid and set-gid bits are left out, as `unzip` does
        self._check(name, stat.S_IFMT(mode))

    @property
    def path(self) -> str:
        """The path from the package's top folder."""
        return self.parent.path_of(self.name) if self.parent else ""

    @property
    def shown(self) -> str:
        """The path, for messages."""
        return shown(self.path)

    def _check(self, name: names.Name, kind: int) -> None:
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise ZipError(f"The package holds a special file: '{shown(name.text)}'.")
        if kind and (kind == stat.S_IFDIR) != name.is_folder:
            raise ZipError(f"The package holds '{shown(name.text)}', which is both a file and a folder.")
        if self.flags & ENCRYPTED:
            raise ZipError(f"The package holds an encrypted entry: '{shown(name.text)}'.")
        if self.method not in (STORED, DEFLATED):
            raise ZipError(f"The package holds an entry with a compression other than deflate: '{shown(name.text)}'.")
        if name.is_folder and (self.size or self.compressed_size > _MAX_FOLDER_DATA):
            raise ZipError(f"The package holds a folder with data in it: '{shown(name.text)}'.")


class Directory(NamedTuple):
    """The location of the directory in the file.

    Attributes:
        start: the offset of its first byte.
        size: its size in bytes.
        shift: the number of bytes before the archive, which is added to all offsets in the archive.
    """

    start: int
    size: int
    shift: int


def locate(file: IO[bytes]) -> Directory:
    """Find the directory through the record at the end of the archive.

    Raises:
        ZipError: there is no directory.
    """
    file_size = file.seek(0, os.SEEK_END)
    tail_start = max(0, file_size - _END.size - _MAX_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    at = _find_end(tail)
    if at is None:
        file.seek(0)
        if file.read(len(_LOCAL_MARK)) == _LOCAL_MARK:
            raise ZipError("The package is cut off: it begins as a zip archive, but its end is missing.")
        raise ZipError("The package is not a zip archive.")
    _, _, _, _, _, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    record = _find_end64(file, end)
    if record is not None:
        end, size, offset = record
    if size > end:
        raise _broken("its directory is broken")
    start = end - size
    return Directory(start, size, start - offset)


def entries(file: IO[bytes], directory: Directory, max_entries: int) -> Iterator[tuple[Entry, names.Name]]:
    """Yield the entries and their names one by one, so that reading stops at the first invalid one.

    Raises:
        ZipError: the directory is broken, or an entry is of a kind that is not allowed.
        ZipTooLarge: there are more than `max_entries`.
    """
    file.seek(directory.start)
    count, left, at = 0, directory.size, directory.start
    extra_left = _FREE_EXTRA + _MEAN_EXTRA * max_entries
    while left > 0:
        header = file.read(_ENTRY.size)
        if len(header) < _ENTRY.size or header[:4] != b"PK\1\2":
            raise _broken("its directory is broken")
        count += 1
        if count > max_entries:
            raise too_many(max_entries)
        fields = _ENTRY.unpack(header)[1:]
        name_size, extra_size, comment_size = fields[9:12]
        entry_size = _ENTRY.size + name_size + extra_size + comment_size
        left -= entry_size
        raw_name, extra = file.read(name_size), file.read(extra_size)
        if left < 0 or len(raw_name) < name_size or len(extra) < extra_size:
            raise _broken("its directory is broken")
        if name_size > _MAX_RAW_NAME:
            raise ZipError(f"The package holds a name that is too long: '{_plain(raw_name)}'.")
        extra_left -= extra_size
        if extra_size > _MAX_EXTRA:
            raise ZipError(
                f"The package holds an entry with {extra_size} bytes of extra fields: '{_plain(raw_name)}'. At most "
                f"{_MAX_EXTRA} are allowed; `zip -X` writes none."
            )
        if extra_left < 0:
            raise ZipError(
                f"The package's entries hold more than {_FREE_EXTRA + _MEAN_EXTRA * max_entries} bytes of extra fields "
                "in all. Make it with fewer; `zip -X` writes none."
            )
        if comment_size:
            file.seek(comment_size, os.SEEK_CUR)
        system = fields[0] >> 8
        name = names.parse(names.decode(raw_name, fields[2], system, extra), system)
        entry = Entry(fields, name, extra, at + _ENTRY.size)
        entry.header_offset += directory.shift
        yield entry, name
        at += entry_size


def too_many(max_entries: int) -> ZipTooLarge:
    """Build the error for an archive with too many entries and implied folders."""
    return ZipTooLarge(
        f"The package has more than {max_entries} entries (MAX_PACKAGE_FILES); folders that only appear in other "
        "entries' paths count, too."
    )


def _plain(raw_name: bytes) -> str:
    return shown(raw_name[:100].decode("cp437"))


def _find_end(tail: bytes) -> int | None:
    """Find the end record: the last one whose comment ends at the end of the file, or else the last one."""
    last = None
    at = tail.rfind(_END_MARK)
    while at >= 0:
        if at + _END.size <= len(tail):
            if at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
                return at
            if last is None:
                last = at
        at = tail.rfind(_END_MARK, 0, at + len(_END_MARK) - 1)
    return last


def _find_end64(file: IO[bytes], end: int) -> tuple[int, int, int] | None:
    """Read the ZIP64 record before `end`, if there is one. Returns the directory's end, size and offset.

    Small archives may have one too, for example if a program wrote them to a pipe.
    """
    locator_start = end - _LOCATOR.size
    if locator_start < _END64.size:
        return None
    file.seek(locator_start)
    mark, _, told_start, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if mark != b"PK\6\7":
        return None
    for start in (locator_start - _END64.size, told_start):  # other bytes may precede the archive
        if not 0 <= start <= locator_start - _END64.size:
            continue
        file.seek(start)
        record = _END64.unpack(file.read(_END64.size))
        is_whole = start + _END64_HEAD + record[1] == locator_start or start == locator_start - _END64.size
        if record[0] == b"PK\6\6" and is_whole:
            return start, record[8], record[9]
    return None


def _wide(numbers: tuple[int, int, int], extra: bytes) -> tuple[int, int, int]:
    """Replace the numbers that don't fit into 32 bits with those of the ZIP64 field."""
    if _FULL not in numbers:
        return numbers
    field = next((field for number, field in names.extra_fields(extra) if number == _ZIP64), b"")
    wide, at = [], 0
    for number in numbers:
        if number == _FULL:
            if at + 8 > len(field):
                raise _broken("its directory has broken ZIP64 fields")
            number = int.from_bytes(field[at : at + 8], "little")
            at += 8
        wide.append(number)
    return wide[0], wide[1], wide[2]


def _broken(why: str) -> ZipError:
    return ZipError(f"The package is not a zip archive that can be read: {why}.")
