"""Receives uploads to a file on this machine and checks them, before a storage keeps them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, Protocol, TypeVar, cast

from qinling_falcon.errors import BadRequest, TooLarge, Unavailable
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from qinling_falcon.storage.offload import CORES, Work, offload
from qinling_falcon.storage.turns import TooManyWait, Turns, WaitedTooLong

P = ParamSpec("P")
T = TypeVar("T")

_CHUNK = 1024 * 1024
_PARTIAL = ".partial"
_CHECK_AGAIN_S = 5


class Readable(Protocol):
    """A stream of an upload."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Received:
    """A package that has passed the checks, in a file that goes when it is not moved away."""

    path: Path
    file: BinaryIO
    size: int
    md5sum: str


class Spool:
    """Receives packages in a folder.

    Args:
        folder: the folder; created if missing, readable for this user only.
        limits: the limits for archives.
        turns: the turns for checks.
    """

    def __init__(self, folder: Path, limits: ArchiveLimits, turns: Turns) -> None:
        self.folder = folder
        self._limits = limits
        self._turns = turns
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def received(self, stream: Readable, size_limit: int, md5sum: str | None, project_id: str) -> Iterator[Received]:
        """Receive a package from a stream and check it. A crash leaves a file that `stale` finds.

        Args:
            stream: the package; read to its end.
            size_limit: the most bytes.
            md5sum: the expected md5; None: any.
            project_id: the project of the upload.

        Raises:
            TooLarge: the package has more than `size_limit` bytes, or its contents exceed a limit.
            BadRequest: the package is not a valid archive, or its md5 is not `md5sum`.
            Unavailable: the disk fails, or too many uploads are being checked.
        """
        descriptor, name = on_disk(tempfile.mkstemp, _PARTIAL, None, self.folder)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "w+b", buffering=0) as file:
                size, digest = self._receive(stream, file, size_limit)
                if md5sum is not None and md5sum.lower() != digest:
                    message = f"the package's md5sum is {digest}, not {md5sum[:64]}"
                    raise BadRequest(f"code: {message}.", errors={"code": [message]})
                self._check(path, project_id)
                yield Received(path, file, size, digest)
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def stale(self, older_than_s: float) -> list[Path]:
        """Files of receptions that ended with their process, older than that."""
        return [path for path in files_before(self.folder, time.time() - older_than_s) if path.suffix == _PARTIAL]

    def _check(self, path: Path, project_id: str) -> None:
        try:
            with self._turns.turn(project_id):
                _on_disk(Work.CHECK, check_zip, path, self._limits)
        except TooManyWait:
            raise Unavailable(
                f"Too many uploads of this project are being checked or wait for their check: at most "
                f"{self._turns.most_of_project} at once (PROJECT_UPLOADS). Try again.",
                retry_after_s=_CHECK_AGAIN_S,
            ) from None
        except WaitedTooLong:
            raise Unavailable(
                f"The upload was not checked within {self._turns.patience_s:g} s, because other uploads were checked "
                "first (UPLOAD_QUEUE_TIMEOUT_S). Try again.",
                retry_after_s=_CHECK_AGAIN_S,
            ) from None

    def _receive(self, stream: Readable, file: BinaryIO, size_limit: int) -> tuple[int, str]:
        """Write the stream to the file; its size and md5."""
        size, digest = 0, hashlib.md5(usedforsecurity=False)

        def keep(data: bytes) -> None:
            digest.update(data)
            _write_all(file, data)

        # At most one byte past the limit is read, whatever length the client has declared.
        while data := stream.read(min(_CHUNK, size_limit + 1 - size)):
            size += len(data)
            if size > size_limit:
                raise TooLarge(f"The package is larger than {size_limit} bytes.")
            on_disk(keep, data)
        return size, digest.hexdigest()


def check_turns(most_of_project: int = 32, patience_s: float = 30.0) -> Turns:
    """Make the turns for checks of uploads: one check per core. One project leaves a core to the others."""
    return Turns(CORES, max(1, CORES - 1), most_of_project, patience_s)


def landed(stream: Readable, folder: Path) -> tuple[BinaryIO, int]:
    """Copy a stream from another machine to an unnamed file. A crash leaves nothing.

    Args:
        stream: the stream; read to its end, but not closed.
        folder: a folder on the disk to use; created if missing, readable for this user only.

    Returns:
        The file, at its start, and its size in bytes.

    Raises:
        Unavailable: the disk fails or is full.
        Exception: reading the stream failed.
    """
    on_disk(functools.partial(folder.mkdir, parents=True, exist_ok=True, mode=0o700))
    with on_disk(tempfile.TemporaryFile, buffering=0, dir=folder) as nameless:
        file = io.FileIO(os.dup(nameless.fileno()), "w+b")
    try:
        size = 0
        while data := stream.read(_CHUNK):
            on_disk(_write_all, file, data)
            size += len(data)
        on_disk(file.seek, 0)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file), size


def _write_all(file: BinaryIO | io.FileIO, data: bytes) -> None:
    """Write to a file without a buffer, which may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def files_before(folder: Path, moment: float) -> Iterator[Path]:
    """What in a folder was last changed by that time."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime <= moment:
                yield path


def on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` as a write, off the hub. Errors of the disk become `Unavailable`, because they are not the caller's.

    Raises:
        Unavailable: the disk fails or is full.
        Exception: another error of `work`.
    """
    return _on_disk(Work.WRITE, work, *args, **kwargs)


def _on_disk(kind: Work, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return offload(kind, work, *args, **kwargs)
    except OSError as error:
        raise Unavailable(f"The disk can't take the package: {error.strerror}.", retry_after_s=1) from error
