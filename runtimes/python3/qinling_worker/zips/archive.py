"""Reads a whole archive: its directory, its tree of names, and its data."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from . import data
from .directory import Entry, entries, locate
from .errors import ZipError, ZipTooLarge
from .tree import Tree

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

    Args:
        file: the archive. Other bytes may precede it, such as a self-extracting program.
        limits: the limits.

    Raises:
        ZipError: the file is not a zip archive, is broken, or contains something that is not allowed.
        ZipTooLarge: the archive has too many entries, or unpacks to too many bytes.
    """

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._file = file
        self.tree = Tree(limits.max_entries, limits.max_depth)
        try:
            self._read_directory(limits)
        except (struct.error, OverflowError, EOFError) as error:
            raise ZipError(f"The package is not a zip archive that can be read: {error}.") from error

    def read(self, entry: Entry) -> Iterator[bytes]:
        """The data of an entry, in pieces of at most `data.CHUNK` bytes.

        Raises:
            ZipError: the data does not match the directory.
        """
        return data.read(self._file, entry)

    def _read_directory(self, limits: Limits) -> None:
        directory = locate(self._file)
        found, size = [], 0
        for entry in entries(self._file, directory, limits.max_entries):
            size += entry.size
            found.append(entry)
            if entry.name.is_folder:
                self.tree.add_folder(entry)
            elif not entry.is_link:
                self.tree.add_file(entry)
        if not self.tree.files:
            raise ZipError("The package is empty.")
        if size > limits.max_size:
            raise ZipTooLarge(
                f"The package unpacks to {size} bytes: at most {limits.max_size} are allowed (MAX_UNPACKED_SIZE)."
            )
        data.check_spans(self._file, found, directory.start)
        for entry in found:
            if entry.is_link:
                self.tree.add_link(entry, self._target(entry))
        self.tree.check_links()

    def _target(self, entry: Entry) -> bytes:
        if entry.size > _MAX_TARGET:
            raise ZipError(f"The package holds a link whose target is too long: '{entry.shown}'.")
        return b"".join(self.read(entry))
