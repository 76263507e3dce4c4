"""Decodes the names of entries and splits them into folders and file name."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .errors import CONTROL, ZipError, shown

# The ids of the systems that archives were made on. NTFS is 10 in the specification and 11 in Info-ZIP.
_UNIX = frozenset({3, 19})
_WINDOWS = frozenset({0, 6, 10, 11, 14})
_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_UNICODE_PATH_HEAD = struct.Struct("<BL")
_EXTRA_HEAD = struct.Struct("<2H")
_MAX_NAME = 1000
_MAX_PART = 255
_DRIVE = re.compile(r"[A-Za-z]:")


class Name(NamedTuple):
    """The path of an entry. It lives until the entry is in the tree, which stores each folder's name once.

    Attributes:
        text: the path, without empty parts and parts ".". An empty text is the package's top folder.
        is_folder: whether the name ends with a slash.
    """

    text: str
    is_folder: bool

    @property
    def parts(self) -> list[bytes]:
        """The folders and the entry's own name, in UTF-8, which needs a quarter of the memory that a `str` may need."""
        return self.text.encode().split(b"/") if self.text else []


def decode(raw: bytes, flags: int, system: int, extra: bytes) -> str:
    """Decode a name. The encoding is the first of these that applies:

    1. The flag for UTF-8.
    2. Info-ZIP's extra field with the name in UTF-8, if its checksum matches this name.
    3. UTF-8, if the archive was made on Unix and the bytes are valid UTF-8.
    4. Code page 437.

    Raises:
        ZipError: the flag for UTF-8 is set, but the name is not UTF-8.
    """
    if flags & _UTF8:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            name = shown(raw.decode("cp437"))
            raise ZipError(f"The package holds a name that is marked as UTF-8, but is not: '{name}'.") from None
    unicode_path = _unicode_path(raw, extra)
    if unicode_path:
        return unicode_path
    if system in _UNIX:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return raw.decode("cp437")


def parse(text: str, system: int) -> Name:
    """Split a name as `unzip` does: empty parts and "." are dropped, and a slash at the end means a folder.

    Archives from DOS or Windows may use backslashes as separators, as PowerShell's `Compress-Archive` does. In
    archives from Unix, a backslash or a colon is an ordinary character of a name, as it is on Linux.

    Raises:
        ZipError: the name leads out of the package, or is not a valid file name.
    """
    control = CONTROL.search(text)
    if control:
        raise ZipError(
            f"The package holds a name with the control character U+{ord(control[0]):04X}: '{shown(text)}'. Rename the "
            "file, or leave it out."
        )
    if system in _WINDOWS:
        text = text.replace("\\", "/")
    if system not in _UNIX and ("\\" in text or _DRIVE.match(text)):
        raise ZipError(f"The package holds a Windows path: '{shown(text)}'.")
    if text.startswith("/"):
        raise ZipError(f"The package holds an absolute path: '{shown(text)}'.")
    raw_parts = text.split("/")
    parts = [part for part in raw_parts if part not in ("", ".")]
    if ".." in parts:
        raise ZipError(f"The package holds a path that leads out of it: '{shown(text)}'.")
    is_folder = text.endswith("/")
    if not is_folder and raw_parts[-1] in ("", "."):
        raise ZipError(f"The package holds an entry without a name: '{shown(text)}'.")
    path = "/".join(parts)
    size = len(path.encode())
    if size > _MAX_NAME or (size > _MAX_PART and any(len(part.encode()) > _MAX_PART for part in parts)):
        raise ZipError(f"The package holds a name that is too long: '{shown(text)}'.")
    return Name(path, is_folder)


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and content of each extra field. A truncated field at the end is skipped."""
    at = 0
    while at + _EXTRA_HEAD.size <= len(extra):
        number, size = _EXTRA_HEAD.unpack_from(extra, at)
        at += _EXTRA_HEAD.size
        if at + size > len(extra):
            return
        yield number, extra[at : at + size]
        at += size


def _unicode_path(raw: bytes, extra: bytes) -> str | None:
    for number, field in extra_fields(extra):
        if number == _UNICODE_PATH and len(field) > _UNICODE_PATH_HEAD.size:
            version, checksum = _UNICODE_PATH_HEAD.unpack_from(field)
            if version == 1 and checksum == zlib.crc32(raw):
                try:
                    return field[_UNICODE_PATH_HEAD.size :].decode("utf-8")
                except UnicodeDecodeError:
                    return None
    return None
