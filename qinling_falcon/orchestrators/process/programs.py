"""The runtimes' programs as workers get them: copied and compiled once, for workers can't write bytecode."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from pathlib import Path

from qinling_falcon.orchestrators.process.images import LocalRuntime

_log = logging.getLogger(__name__)
_COMPILE = ["-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]


class Programs:
    """Copies of programs in `folder`, as they were when this manager first started them.

    Compiling a worker's modules at each start would cost a quarter of its time; a copy, unlike the original, can
    be written whoever the service runs as, and does not change below running workers.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._prepared: dict[tuple[Path, Path], Path] = {}
        self._lock = threading.Lock()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)

    def prepare(self, runtime: LocalRuntime) -> Path:
        """The copy of the runtime's program; its folder holds what came beside it."""
        key = runtime.program.parent, runtime.interpreter.program
        with self._lock:
            if key not in self._prepared:
                self._prepared[key] = self._copy(runtime)
        return self._prepared[key] / runtime.program.name

    def _copy(self, runtime: LocalRuntime) -> Path:
        copy = self._folder / str(len(self._prepared))
        shutil.copytree(runtime.program.parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        compiled = subprocess.run(
            [runtime.interpreter.program, *_COMPILE, copy], env={}, capture_output=True, text=True, check=False
        )
        if compiled.returncode != 0:
            _log.warning("program_not_compiled program=%s why=%r", runtime.program, compiled.stdout[-500:])
        subprocess.run(["chmod", "-R", "a+rX,go-w", copy], check=True)
        return copy
