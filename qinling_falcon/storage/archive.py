"""Checks uploaded zip archives, without unpacking anything to disk.

The worker uses the same reader (`runtimes/python3/qinling_worker/zips`), so it unpacks
an archive that passes here to the same tree. An archive is read twice: its directory,
and every entry's data, which is inflated and thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qinling_falcon.errors import BadPackage, TooLarge
from runtimes.python3.qinling_worker.zips.archive import Archive, Limits
from runtimes.python3.qinling_worker.zips.errors import ZipError, ZipTooLarge


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The largest archive that is taken.

    Attributes:
        max_files: entries, with the folders that only their names imply.
        max_unpacked_size: bytes when unpacked.
        max_depth: the deepest nesting of folders.
    """

    max_files: int
    max_unpacked_size: int
    max_depth: int = 100


def check_zip(path: Path, limits: ArchiveLimits) -> None:
    """Make sure that a worker can unpack an archive safely.

    Raises:
        BadPackage: it is no zip, is broken, or holds something that a package may not hold; the message says what.
        TooLarge: it has too many entries, or unpacks to too much.
    """
    try:
        with path.open("rb") as file:
            archive = Archive(file, Limits(limits.max_files, limits.max_unpacked_size, limits.max_depth))
            for checked in archive.tree.files:
                for _ in archive.read(checked.entry):
                    continue
    except ZipTooLarge as error:
        raise TooLarge(str(error)) from error
    except ZipError as error:
        raise BadPackage(str(error)) from error
