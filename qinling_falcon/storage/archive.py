"""Checks uploaded zip archives without unpacking them to disk.

The worker uses the same reader (`runtimes/python3/qinling_worker/zips`), so it unpacks
an accepted archive to the tree that was checked here. The check reads the directory,
then inflates and discards the data of every entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qinling_falcon.errors import BadPackage, TooLarge
from runtimes.python3.qinling_worker.zips.archive import Archive, Limits
from runtimes.python3.qinling_worker.zips.errors import ZipError, ZipTooLarge


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The limits for an archive.

    Attributes:
        max_files: the most entries; folders that only appear in other entries' paths count.
        max_unpacked_size: the most bytes after unpacking.
        max_depth: the deepest nesting of folders.
    """

    max_files: int
    max_unpacked_size: int
    max_depth: int = 100


def check_zip(path: Path, limits: ArchiveLimits) -> None:
    """Check that a worker can unpack an archive safely.

    Raises:
        BadPackage: the file is not a zip archive, is broken, or contains something that is not allowed; the message
            gives the reason.
        TooLarge: the archive has too many entries, or unpacks to too many bytes.
    """
    try:
        most = Limits(limits.max_files, limits.max_unpacked_size, limits.max_depth)
        with path.open("rb") as file, Archive(file, most) as archive:
            for checked in archive.tree.files:
                for _ in archive.read(checked.entry):
                    continue
    except ZipTooLarge as error:
        raise TooLarge(str(error)) from error
    except ZipError as error:
        raise BadPackage(str(error)) from error
