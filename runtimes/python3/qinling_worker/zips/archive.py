"""Reads a whole archive: its directory, its tree of names, and its data."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, NamedTuple

from . import data
from .directory import Entry, entries, locate
from .errors import ZipError, ZipTooLarge
from .tree import Link, Tree, target_of

_MAX_TARGET = 1000


class Limits(NamedTuple):
    """The limits for an archive.

    Attributes:
        max_entries: the most entries; folders that only appear in other entries' paths count.
        max_size: the most bytes after unpacking.
        max_depth: the deepest nesting of folders; None: no limit but the length of names.
    """

    max_entries: int
    max_size: int
    max_depth: int | None = None


class Archive:
    """An open archive. The constructor checks its directory, names and links; `read` checks the data.

    Use it in a `with` statement: its end takes the tree apart, so that the memory is free at once. The nodes refer to
    each other, and without that they would wait for the garbage collector.

    Args:
        file: the archive. Other bytes may precede it, such as a self-extracting program.
        limits: the limits.
        pause: called for each entry while the directory is read; it may raise to end the reading.

    Raises:
        ZipError: the file is not a zip archive, is broken, or contains something that is not allowed.
        ZipTooLarge: the archive has too many entries, or unpacks to too many bytes.
    """

    def __init__(self, file: IO[bytes], limits: Limits, pause: Callable[[], None] = lambda: None) -> None:
        self._file = file
        self.tree = Tree(limits.max_entries, limits.max_depth)
        try:
            self._read_directory(limits, pause)
        except BaseException as error:
            self.tree.clear()
            if isinstance(error, (struct.error, OverflowError, EOFError)):
                raise ZipError(f"The package is not a zip archive that can be read: {error}.") from error
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.tree.clear()

    def read(self, entry: Entry) -> Iterator[bytes]:
        """The data of an entry, in pieces of at most `data.CHUNK` bytes.

        Raises:
            ZipError: the data does not match the directory.
        """
        return data.read(self._file, entry)

    def target(self, link: Link) -> str:
        """The path that a link holds, relative to its own folder. It is read from the archive each time.

        Raises:
            ZipError: it is not what the directory says, or can't be a path in the package.
        """
        entry = link.entry
        if entry.size > _MAX_TARGET:
            raise ZipError(f"The package holds a link whose target is too long: '{entry.shown}'.")
        return target_of(entry, b"".join(self.read(entry)))

    def _read_directory(self, limits: Limits, pause: Callable[[], None]) -> None:
        directory = locate(self._file)
        found, size, has_files = [], 0, False
        for entry, name in entries(self._file, directory, limits.max_entries):
            pause()
            size += entry.size
            found.append(entry)
            if name.is_folder:
                self.tree.add_folder(entry, name)
            elif entry.is_link:
                self.tree.add_link(entry, name)
            else:
                self.tree.add_file(entry, name)
                has_files = True
        if not has_files:
            raise ZipError("The package is empty.")
        if size > limits.max_size:
            raise ZipTooLarge(
                f"The package unpacks to {size} bytes: at most {limits.max_size} are allowed (MAX_UNPACKED_SIZE)."
            )
        data.check_spans(self._file, found, directory.start, pause)
        self.tree.check_links(self.target, pause)
