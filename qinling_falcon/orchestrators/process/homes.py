"""The folder that each worker has on disk. It holds the worker's code and, without a sandbox, its /tmp."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qinling_falcon.orchestrators.process.images import reachable
from qinling_falcon.orchestrators.process.slots import Slot

_MOST_EMPTY = 256


@dataclass(frozen=True, slots=True)
class Home:
    """A worker's folder.

    Attributes:
        path: the folder.
        slot: who owns what is in it; None: the service's user.
    """

    path: Path
    slot: Slot | None

    @property
    def code(self) -> Path:
        """Where the supervisor unpacks the function."""
        return self.path / "code"

    @property
    def tmp(self) -> Path:
        """What stands for /tmp where there is no sandbox."""
        return self.path / "tmp"

    def make(self) -> None:
        """Make the folder for a worker in a sandbox, or take over an empty one of an earlier worker."""
        if not self.path.exists():
            self.path.mkdir(mode=0o700)
            self.code.mkdir()
        self._set_owner_of_code()

    def make_plain(self, program: Path) -> Path:
        """Make the folder for a worker without a sandbox, closed to other workers. Returns where it finds `program`."""
        self.path.mkdir(mode=0o750)
        self.code.mkdir()
        self._set_owner_of_code()
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        if self.slot is None:
            return program
        if not reachable(program):
            program = Path(shutil.copytree(program.parent, self.path / "runtime")) / program.name
            subprocess.run(["chmod", "-R", "a+rX", program.parent], check=True)
        os.chown(self.path, self.slot.uid, self.slot.child_uid)
        return program

    def _set_owner_of_code(self) -> None:
        self.code.chmod(0o750)
        if self.slot:
            os.chown(self.code, self.slot.uid, self.slot.child_uid)

    @property
    def is_empty(self) -> bool:
        """Whether the folder can be used again: no function was loaded, and its worker had a sandbox."""
        try:
            return os.listdir(self.path) == ["code"] and not os.listdir(self.code)  # noqa: PTH208 - quickly
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the folder with everything in it, however deep and whatever its modes."""
        try:
            self.code.rmdir()
            self.path.rmdir()
        except OSError:
            # Not shutil.rmtree: it recurses, and would hold up the manager over a large package.
            removed = subprocess.run(["rm", "-rf", "--", self.path], stderr=subprocess.DEVNULL, check=False)
            if removed.returncode != 0:
                subprocess.run(["chmod", "-R", "u+rwX", "--", self.path], stderr=subprocess.DEVNULL, check=False)
                subprocess.run(["rm", "-rf", "--", self.path], stderr=subprocess.DEVNULL, check=False)


class Homes:
    """The folders of one install's workers.

    Args:
        folder: where they are.
        install_id: names the folder that is used instead, where other users can't reach `folder`.
        foreign_uid: workers reach their folder under a user of their own.

    Attributes:
        folder: where new folders are made.
    """

    def __init__(self, folder: Path, install_id: str, *, foreign_uid: bool):
        spare = Path(tempfile.gettempdir(), f"qinling-falcon-{install_id}")
        self._known = (folder, spare)
        self._prefix = secrets.token_hex(4)  # an earlier manager may have failed to remove folders: use other names
        self._numbers = itertools.count()
        self._empty: list[Path] = []
        folder.mkdir(mode=0o711, exist_ok=True)
        folder.chmod(0o711)
        if foreign_uid and not _passable(folder):
            spare.mkdir(mode=0o711, exist_ok=True)
            seen = spare.lstat()
            if seen.st_uid != os.geteuid() or not stat.S_ISDIR(seen.st_mode):
                raise PermissionError(f"{spare} belongs to somebody else")
            spare.chmod(0o711)
            self.folder = spare
        else:
            self.folder = folder

    def take(self, slot: Slot | None) -> Home:
        """A folder for a worker: one that an earlier worker has left empty, or a new one, to be made by `Home.make`."""
        path = self._empty.pop() if self._empty else self.folder / f"{self._prefix}-{next(self._numbers)}"
        return Home(path, slot)

    def give_back(self, home: Home) -> None:
        """Remove the folder of a worker that is gone; keep an empty one for another worker: making folders is slow."""
        if home.is_empty and len(self._empty) < _MOST_EMPTY:
            self._empty.append(home.path)
        else:
            home.remove()

    def left(self) -> Iterator[Home]:
        """The folders that earlier managers left."""
        for folder in self._known:
            if folder.is_dir() and not folder.is_symlink() and folder.lstat().st_uid == os.geteuid():
                for path in folder.iterdir():
                    yield Home(path, _owner(path / "code"))

    def close(self) -> None:
        """Remove the empty folders."""
        for path in self._empty:
            Home(path, None).remove()
        try:
            self._known[1].rmdir()
        except OSError:
            return


def _passable(folder: Path) -> bool:
    resolved = folder.resolve()
    return all(part.stat().st_mode & stat.S_IXOTH for part in (resolved, *resolved.parents))


def _owner(code: Path) -> Slot | None:
    try:
        seen = code.lstat()
    except OSError:
        return None
    return Slot(seen.st_uid, seen.st_gid) if seen.st_gid == seen.st_uid + 1 else None
