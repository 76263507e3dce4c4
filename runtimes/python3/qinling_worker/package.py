"""Unpacking a function package, without trusting it."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from typing import IO

_CHUNK = 64 * 1024
_END_OF_DIRECTORY = b"PK\5\6"
_LONGEST_END = 22 + 0xFFFF
_MEAN_ENTRY_SIZE = 1024  # of the directory at the archive's end; names may be long, but not all of them


class BadPackage(Exception):
    """The package can't be used; the message says why."""


def open_upload(folder: str) -> IO[bytes]:
    """A nameless file in `folder`: there is room for a package; not in memory, nor where functions write."""
    path = os.path.join(folder, ".upload")
    file = open(path, "x+b")  # noqa: SIM115 - the connection closes it
    os.unlink(path)
    return file


def unpack(file: IO[bytes], folder: str, max_files: int, max_size: int) -> None:
    """Unpack a zip into `folder`, readable for everybody and writable for none but us.

    Raises:
        BadPackage: not a zip, unsafe, or above a limit. `folder` then holds a part of it.
    """
    _check_directory(file, max_files)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_sizes(entries, max_files, max_size)
            left = max_size
            for entry in entries:
                left -= _unpack_entry(archive, entry, folder, left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadPackage(f"the package is not a usable zip archive: {error}") from None
    except OSError as error:
        raise BadPackage(f"the package can't be unpacked: {error.strerror or error}") from None


def _check_directory(file: IO[bytes], max_files: int) -> None:
    """Look at the archive's end before `zipfile` reads its whole directory into memory."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LONGEST_END))
    tail = file.read()
    at = tail.rfind(_END_OF_DIRECTORY)
    if at < 0 or len(tail) - at < 22:
        raise BadPackage("the package is not a zip archive")
    count = int.from_bytes(tail[at + 10 : at + 12], "little")
    directory_size = int.from_bytes(tail[at + 12 : at + 16], "little")
    if count > max_files or directory_size > max_files * _MEAN_ENTRY_SIZE:
        raise BadPackage(f"the package has more than {max_files} entries")
    file.seek(0)


def _check_sizes(entries: list[zipfile.ZipInfo], max_files: int, max_size: int) -> None:
    if not entries:
        raise BadPackage("the package is empty")
    if len(entries) > max_files:
        raise BadPackage(f"the package has more than {max_files} entries")
    if sum(entry.file_size for entry in entries) > max_size:
        raise BadPackage(f"the package is larger than {max_size} bytes when unpacked")


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: str, left: int) -> int:
    """Unpack one entry of at most `left` bytes; its true size."""
    path = _safe_path(entry, folder)
    if entry.is_dir():
        os.makedirs(path, exist_ok=True)
        return 0
    os.makedirs(os.path.dirname(path), exist_ok=True)
    size = 0
    try:
        # "x": a name that comes twice must not lead through what the first one made.
        target = open(path, "xb")  # noqa: SIM115 - closed below
    except (FileExistsError, IsADirectoryError):
        raise BadPackage(f"{entry.filename!r} is in the package twice") from None
    with target, archive.open(entry) as source:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > left:
                raise BadPackage("the package is larger than its own directory says")
            target.write(chunk)
        os.fchmod(target.fileno(), 0o555 if entry.external_attr >> 16 & 0o111 else 0o444)
    return size


def _safe_path(entry: zipfile.ZipInfo, folder: str) -> str:
    name = entry.filename
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise BadPackage(f"the package holds an unsafe path: {name!r}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadPackage(f"the package holds something that is neither file nor folder: {name!r}")
    if entry.flag_bits & 1:
        raise BadPackage(f"the package is encrypted: {name!r}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadPackage(f"the package uses a compression other than deflate: {name!r}")
    return os.path.join(folder, *parts)
