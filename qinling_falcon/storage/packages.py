"""The package storage.

A package is written once, under a unique key, and never changed. Two functions with
the same code have two packages, so that one can be deleted alone. A package is
durable before `save` returns its key. A crash between `save` and the commit of the
row with the key leaves a file that no row names; `sweep` deletes it.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from qinling_falcon.settings import Settings
from qinling_falcon.storage.archive import ArchiveLimits
from qinling_falcon.storage.offload import Work, offload
from qinling_falcon.storage.spool import Readable, Spool, check_turns, files_before, on_disk
from qinling_falcon.storage.turns import Turns

ORPHAN_AGE_S = 3600.0
"""A package that no row names after so long is swept up: longer than any request takes from storing it to its row."""

_KEY = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.zip")


def advice_on_missing(settings: Settings) -> str:
    """The likely cause of a missing package and what to do, for an error message."""
    if settings.package_storage == "local":
        return (
            "PACKAGE_STORAGE=local keeps packages below VAR_DIR of the machine that received the upload. If web has"
            " moved to another machine, copy VAR_DIR/packages there; with PACKAGE_STORAGE=swift both machines have the"
            " packages. Otherwise the package is lost and has to be uploaded again."
        )
    return (
        "PACKAGE_STORAGE=swift has no object for it. A package that is lost, or was uploaded before PACKAGE_STORAGE was"
        " changed, has to be uploaded again."
    )


class PackageMissing(Exception):
    """No package has this key (any more)."""


@dataclass(frozen=True, slots=True)
class StoredPackage:
    """A package that is durable. `key` is what `open`, `read` and `delete` take."""

    md5sum: str
    size: int
    key: str


class Stream(Readable, Protocol):
    """Content that is read and then closed."""

    def close(self) -> None:
        """Release the stream's resources."""


@dataclass(frozen=True, slots=True)
class OpenPackage:
    """An open package. The caller of `open` closes the stream.

    Attributes:
        size: the bytes of the package; None: not known in advance.
        far: whether the package is downloaded from another machine while it is read, which holds a connection.
    """

    stream: Stream
    size: int | None
    far: bool = False


class PackageStore(Protocol):
    """A storage for packages."""

    def save(self, stream: Readable, size_limit: int, md5sum: str | None = None, *, project_id: str) -> StoredPackage:
        """Receive a package from a stream, check it, and make it durable.

        Args:
            stream: the package; read to its end.
            size_limit: the most bytes.
            md5sum: the expected md5; None: any.
            project_id: the project of the upload; the checks of projects take turns.

        Raises:
            TooLarge: the package has more than `size_limit` bytes, or its contents exceed a limit.
            BadRequest: the package is not a valid archive, or its md5 is not `md5sum`.
            Unavailable: the storage fails, or too many uploads are being checked.
        """

    def open(self, key: str) -> OpenPackage:
        """The package, to be read.

        Raises:
            PackageMissing: there is none.
            Unavailable: the storage can't be asked.
        """

    def read(self, key: str) -> bytes:
        """The package's bytes; raises as `open`."""

    def size(self, key: str) -> int | None:
        """The bytes of a package; None: the storage has no such package.

        Raises:
            Unavailable, BadGateway: the storage does not answer.
        """

    def delete(self, key: str) -> None:
        """Remove a package; one that is gone is no error. What can't be removed now is left to `sweep`."""

    def sweep(self, known_keys: Callable[[], Collection[str]], older_than_s: float) -> list[str]:
        """Remove packages that no row names, and uploads that never ended.

        Args:
            known_keys: gives all keys that rows name; called after the packages were listed.
            older_than_s: younger ones are left alone: their row may be about to be written.

        Returns:
            The names of what was removed.
        """


class LocalPackages:
    """Packages in a folder that all processes of this machine share.

    Args:
        folder: the folder; created if missing, readable for this user only.
        limits: the limits for archives.
        turns: the turns for checks of uploads.
    """

    def __init__(self, folder: Path, limits: ArchiveLimits, turns: Turns | None = None) -> None:
        self._folder = folder
        self._spool = Spool(folder, limits, turns or check_turns())

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalPackages:
        """The storage below `VAR_DIR`."""
        folder = settings.var_dir.absolute() / "packages"
        turns = check_turns(settings.project_uploads, settings.upload_queue_timeout_s)
        return cls(folder, archive_limits(settings), turns)

    def save(self, stream: Readable, size_limit: int, md5sum: str | None = None, *, project_id: str) -> StoredPackage:
        """See `PackageStore`."""
        with self._spool.received(stream, size_limit, md5sum, project_id) as received:
            on_disk(os.fsync, received.file.fileno())
            key = new_key(received.md5sum)
            on_disk(self._publish, received.path, key)
            return StoredPackage(received.md5sum, received.size, key)

    def open(self, key: str) -> OpenPackage:
        """See `PackageStore`."""
        try:
            file: BinaryIO = self._path(key).open("rb")
        except FileNotFoundError as error:
            raise PackageMissing(key) from error
        return OpenPackage(file, os.fstat(file.fileno()).st_size)

    def read(self, key: str) -> bytes:
        """See `PackageStore`."""
        try:
            return offload(Work.READ, self._path(key).read_bytes)
        except FileNotFoundError as error:
            raise PackageMissing(key) from error

    def size(self, key: str) -> int | None:
        """See `PackageStore`."""
        try:
            return self._path(key).stat().st_size
        except (PackageMissing, FileNotFoundError):
            return None

    def delete(self, key: str) -> None:
        """See `PackageStore`."""
        self._path(key).unlink(missing_ok=True)

    def sweep(self, known_keys: Callable[[], Collection[str]], older_than_s: float) -> list[str]:
        """See `PackageStore`."""
        old = self._spool.stale(older_than_s)
        old += [path for path in files_before(self._folder, time.time() - older_than_s) if is_key(path.name)]
        known = known_keys() if old else ()
        orphans = [path for path in old if path.name not in known]
        for path in orphans:
            path.unlink(missing_ok=True)
        return sorted(path.name for path in orphans)

    def _publish(self, partial: Path, key: str) -> None:
        """Give a complete file its name, so that both survive a power cut."""
        partial.rename(self._folder / key)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        if not is_key(key):
            raise PackageMissing(key)
        return self._folder / key


def archive_limits(settings: Settings) -> ArchiveLimits:
    """The limits for packages from the settings."""
    return ArchiveLimits(settings.max_package_files, settings.max_unpacked_size, settings.max_package_depth)


def new_key(md5sum: str) -> str:
    """A key for a package, that no other has."""
    return f"{md5sum}-{uuid.uuid4().hex}.zip"


def is_key(name: str) -> bool:
    """Whether a name is one that a package may have."""
    return _KEY.fullmatch(name) is not None
