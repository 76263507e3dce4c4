"""Identifies this installation on the machine, and lets a manager clean up after an earlier one."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from qinling_falcon.orchestrators.base import AlreadyRunning


class Install:
    """The install in `var_dir`, held by this process until `close`.

    Args:
        var_dir: the service's folder of data.
        wait_s: how long an earlier manager gets to finish.

    Raises:
        AlreadyRunning: it did not.

    Attributes:
        folder: the install's `VAR_DIR`.
        install_id: random, made once.
        lock: the descriptor that holds the install; a process that it is passed to holds it too.
    """

    def __init__(self, var_dir: Path, wait_s: float):
        self.folder = var_dir.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = self._take_lock(wait_s)
        self.install_id = self._read_id()

    def _take_lock(self, wait_s: float) -> int:
        path = self.folder / "workers.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 20, 0).decode().strip() or "?"
                    os.close(descriptor)
                    raise AlreadyRunning(f"Another pool manager, process {holder}, holds {path}.") from None
                time.sleep(0.05)
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor

    def _read_id(self) -> str:
        path = self.folder / "install-id"
        # With the folder's own number: a copy of the folder is another install, that must not sweep this one's.
        folder = str(self.folder.stat().st_ino)
        if path.exists():
            known = path.read_text().split()
            if len(known) == 2 and known[1] == folder:
                return known[0]
        made = secrets.token_hex(6)
        draft = path.with_suffix(".new")
        draft.write_text(f"{made} {folder}\n")
        draft.replace(path)
        return made

    @property
    def workers_dir(self) -> Path:
        """Where each worker has a folder."""
        return self.folder / "workers"

    def remembered_groups(self) -> list[Path]:
        """Folders of control groups that managers of this install have made: another login has others."""
        path = self.folder / "cgroups"
        folders = [Path(line) for line in path.read_text().splitlines()] if path.exists() else []
        # In a copy of the folder they are those of the install that it was copied from.
        return [folder for folder in folders if folder.name.endswith(f"-{self.install_id}")]

    def remember_groups(self, folders: Iterable[Path]) -> None:
        """Note `folders` for the next manager, before anything runs in them."""
        draft = self.folder / "cgroups.new"
        draft.write_text("".join(f"{folder}\n" for folder in folders))
        draft.replace(self.folder / "cgroups")

    def close(self) -> None:
        """Let another manager have it."""
        os.close(self.lock)
