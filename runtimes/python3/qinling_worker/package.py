"""Unpacks function packages, which are not trusted."""

from __future__ import annotations

import errno
import io
import os
import time

from .disk import DiskError
from .zips.archive import Archive, Limits
from .zips.errors import ZipError
from .zips.tree import File

# Earlier releases did not count implied folders, so their packages may have more of them than the limit allows.
_LENIENCE = 2


# The errors of a disk that a name in the package causes. All others are the platform's.
_OF_THE_PACKAGE = frozenset(
    {errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR}
)


class BadPackage(Exception):
    """The package can't be used; the message says why."""


def open_upload(folder: str) -> io.FileIO:
    """Open an unnamed file in `folder`, which is on a disk that functions can't write to.

    The file has no buffer, so closing it writes nothing and can't fail.
    """
    path = os.path.join(folder, ".upload")
    file = io.FileIO(path, "x+")
    os.unlink(path)
    return file


def unpack(file: io.FileIO, folder: str, max_files: int, max_size: int, timeout_s: float) -> None:
    """Unpack a zip archive into `folder`. All users can read the files, and only this user can write them.

    Links are created last, so that no write follows one.

    Raises:
        BadPackage: the file is not a zip archive, is unsafe, or above a limit.
        DiskError: the disk can't take it. In both cases `folder` then holds a part of the package.
    """
    deadline = _Deadline(timeout_s)
    try:
        with Archive(io.BufferedReader(file), Limits(_LENIENCE * max_files, max_size), deadline.check) as archive:
            for made in archive.tree.folders():
                deadline.check()
                os.mkdir(f"{folder}/{made.path}", 0o755)
            for unpacked in archive.tree.files:
                _write(archive, unpacked, folder, deadline)
            for link in archive.tree.links:
                os.symlink(archive.target(link), f"{folder}/{link.entry.path}")
    except ZipError as error:
        raise BadPackage(str(error)) from None
    except OSError as error:
        if error.errno in _OF_THE_PACKAGE:
            raise BadPackage(f"The package can't be unpacked: {error.strerror}.") from None
        raise DiskError(error) from None


class _Deadline:
    """The time limit for unpacking, which is needed because the supervisor serves no other request meanwhile."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends = time.monotonic() + timeout_s

    def check(self) -> None:
        if time.monotonic() > self._ends:
            raise BadPackage(f"The package was not unpacked within {self._timeout_s:g} s.")


def _write(archive: Archive, unpacked: File, folder: str, deadline: _Deadline) -> None:
    entry = unpacked.entry
    deadline.check()
    # "x" fails if the name exists, so that an existing file or link is never written to.
    with open(f"{folder}/{entry.path}", "xb", buffering=0) as target:
        for piece in archive.read(entry):
            while piece:
                piece = piece[target.write(piece) :]
            deadline.check()
        os.fchmod(target.fileno(), 0o555 if entry.is_program else 0o444)
