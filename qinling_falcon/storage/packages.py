"""Where the packages of functions are kept.

A package is written once under a name of its own and never changed; two functions
with the same code have two packages, so that deleting one leaves the other. It is
durable before its key is known to anybody. A crash between `save` and the commit
of the row that names the key leaves a file that nobody knows: `sweep` removes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, Protocol, TypeVar

from qinling_falcon.errors import BadRequest, TooLarge, Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from qinling_falcon.storage.offload import offload

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1024 * 1024
_KEY = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.zip")
_PARTIAL = ".partial"


class PackageMissing(Exception):
    """No package has this key (any more)."""


class Readable(Protocol):
    """A stream of an upload."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class StoredPackage:
    """A package that is durable. `key` is what `open`, `read` and `delete` take."""

    md5sum: str
    size: int
    key: str


class PackageStore(Protocol):
    """Keeps packages."""

    def save(self, stream: Readable, size_limit: int, md5sum: str | None = None) -> StoredPackage:
        """Take a package from a stream, check it, and make it durable.

        Raises:
            TooLarge: more than `size_limit` bytes, or too much in it.
            BadRequest: no zip that may be run, or not the one with `md5sum`.
            Unavailable: the storage can't take it.
        """

    def open(self, key: str) -> BinaryIO:
        """The package as a file that can be read; `PackageMissing` when there is none."""

    def read(self, key: str) -> bytes:
        """The package's bytes; `PackageMissing` when there is none."""

    def delete(self, key: str) -> None:
        """Remove a package; one that is gone is no error."""

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
        folder: made when missing, for this user alone.
        limits: what an archive may hold.
    """

    def __init__(self, folder: Path, limits: ArchiveLimits) -> None:
        self._folder = folder
        self._limits = limits
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalPackages:
        """The packages below `VAR_DIR`."""
        limits = ArchiveLimits(settings.max_package_files, settings.max_unpacked_size)
        return cls(settings.var_dir.absolute() / "packages", limits)

    def save(self, stream: Readable, size_limit: int, md5sum: str | None = None) -> StoredPackage:
        """See `PackageStore`."""
        descriptor, name = _on_disk(tempfile.mkstemp, _PARTIAL, None, self._folder)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                size, digest = self._receive(stream, file, size_limit)
                if md5sum is not None and md5sum.lower() != digest:
                    message = f"the package's md5sum is {digest}, not {md5sum[:64]}"
                    raise BadRequest(f"code: {message}.", errors={"code": [message]})
                _on_disk(check_zip, partial, self._limits)
                _on_disk(os.fsync, file.fileno())
            key = f"{digest}-{uuid.uuid4().hex}.zip"
            _on_disk(self._publish, partial, key)
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
        return StoredPackage(digest, size, key)

    def open(self, key: str) -> BinaryIO:
        """See `PackageStore`."""
        try:
            return self._path(key).open("rb")
        except FileNotFoundError as error:
            raise PackageMissing(key) from error

    def read(self, key: str) -> bytes:
        """See `PackageStore`."""
        try:
            return offload(self._path(key).read_bytes)
        except FileNotFoundError as error:
            raise PackageMissing(key) from error

    def delete(self, key: str) -> None:
        """See `PackageStore`."""
        self._path(key).unlink(missing_ok=True)

    def sweep(self, known_keys: Callable[[], Collection[str]], older_than_s: float) -> list[str]:
        """See `PackageStore`."""
        before = time.time() - older_than_s
        old = []
        for path in self._folder.iterdir():
            ours = path.name.endswith(_PARTIAL) or _KEY.fullmatch(path.name)
            with suppress(FileNotFoundError):
                if ours and path.stat().st_mtime <= before:
                    old.append(path)
        known = known_keys() if old else ()
        orphans = [path for path in old if path.name not in known]
        for path in orphans:
            path.unlink(missing_ok=True)
        return sorted(path.name for path in orphans)

    def _receive(self, stream: Readable, file: BinaryIO, size_limit: int) -> tuple[int, str]:
        """Write the stream to the file; its size and md5."""
        size, digest = 0, hashlib.md5(usedforsecurity=False)

        def keep(data: bytes) -> None:
            digest.update(data)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

        # Never more than one byte past the limit is read, whatever the sender says.
        while data := stream.read(min(_CHUNK, size_limit + 1 - size)):
            size += len(data)
            if size > size_limit:
                raise TooLarge(f"The package is larger than {size_limit} bytes.")
            _on_disk(keep, data)
        return size, digest.hexdigest()

    def _publish(self, partial: Path, key: str) -> None:
        """Give a complete file its name, so that both survive a power cut."""
        partial.rename(self._folder / key)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise PackageMissing(key)
        return self._folder / key


def _on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` off the hub; what the disk refuses is no fault of the caller's."""
    try:
        return offload(work, *args, **kwargs)
    except OSError as error:
        raise Unavailable(f"The package could not be stored: {error.strerror}.") from error
