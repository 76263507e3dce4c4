"""The table of local runtimes: which program and interpreter stand behind a runtime's image."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qinling_falcon.orchestrators.base import UnknownImage
from qinling_falcon.orchestrators.runtime_table import find_entry, read_entries

OLDEST_PYTHON = (3, 8)
_FALLBACKS = (Path("/usr/local/bin/python3"), Path("/usr/bin/python3"))
_DESCRIBE = """
import json, os, sys, sysconfig
print(json.dumps([os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    os.path.realpath(sys.base_prefix), sys.version_info[:2], bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on this machine.

    Attributes:
        program: its real path, below `prefix`.
        prefix: the folder that holds it with its library.
        version: major and minor.
        shared: it needs its own `lib` folder to find libpython.
    """

    program: Path
    prefix: Path
    version: tuple[int, int]
    shared: bool


@dataclass(frozen=True, slots=True)
class LocalRuntime:
    """What runs in a worker.

    Attributes:
        interpreter: the Python that runs the program.
        program: the program's file.
        zygote: whether the program can be a zygote, from which workers are forked (`--zygote-fd`).
    """

    interpreter: Interpreter
    program: Path
    zygote: bool = False


class RuntimeTable:
    """The table in `settings.runtimes_file`.

    Args:
        path: the file.
        foreign_uid: workers see the host's files under a user of their own, so that a program which others
            can't reach is of no use.

    Raises:
        SettingsError: the file is missing or wrong; the message says where.
    """

    def __init__(self, path: Path, *, foreign_uid: bool = False):
        self._path = path.absolute()
        self._foreign_uid = foreign_uid
        self._entries = read_entries(self._path)
        self._described: dict[Path, Interpreter] = {}

    def resolve(self, image: str) -> LocalRuntime:
        """The runtime behind `image`.

        Raises:
            UnknownImage: none, or it is not usable; the message says why.
        """
        entry = find_entry(self._entries, image)
        if entry is None:
            known = ", ".join(image for entry in self._entries for image in entry.images)
            raise UnknownImage(f"image {image} is not a local runtime; {self._path.name} has: {known}")
        if not entry.program.is_file():
            raise UnknownImage(f"image {image}: its program {entry.program} is missing ({self._path})")
        candidates = [Path(entry.python)] if entry.python else [Path(sys.executable), *_FALLBACKS]
        reasons = []
        for candidate in candidates:
            try:
                return LocalRuntime(self._interpreter(candidate), entry.program, entry.zygote)
            except UnknownImage as error:
                reasons.append(str(error))
        raise UnknownImage(f"image {image}: {reasons[0]} ({self._path})")

    def with_zygotes(self) -> list[LocalRuntime]:
        """The usable runtimes whose program can be a zygote."""
        found = []
        for entry in self._entries:
            with contextlib.suppress(UnknownImage):
                runtime = self.resolve(entry.images[0])
                found += [runtime] if runtime.zygote else []
        return found

    def _interpreter(self, path: Path) -> Interpreter:
        if not os.access(path, os.X_OK):
            self._described.pop(path, None)
            raise UnknownImage(f"interpreter {path} is missing or can't be run")
        if path not in self._described:
            self._described[path] = _describe(path)
        found = self._described[path]
        if found.version < OLDEST_PYTHON:
            found_version, needed = (".".join(map(str, version)) for version in (found.version, OLDEST_PYTHON))
            raise UnknownImage(f"interpreter {path} is Python {found_version}, {needed} or later is needed")
        if self._foreign_uid and not reachable(found.program):
            raise UnknownImage(f"interpreter {found.program} can't be reached by other users, as workers are here")
        return found


def reachable(path: Path) -> bool:
    """Whether any user can reach and read `path`."""
    path = path.resolve()
    try:
        passable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
        return passable and bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _describe(path: Path) -> Interpreter:
    try:
        answer = subprocess.run(
            [path, "-I", "-S", "-c", _DESCRIBE], capture_output=True, text=True, timeout=10, check=True, env={}
        )
        program, prefix, version, shared = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UnknownImage(f"interpreter {path} does not work: {error}") from None
    if not Path(program).is_relative_to(prefix):
        raise UnknownImage(f"interpreter {program} does not lie below its own prefix {prefix}")
    return Interpreter(Path(program), Path(prefix), (version[0], version[1]), shared)
