"""Functions for tests of isolation by call."""

from __future__ import annotations

from pathlib import Path

from tests.runtime.client import Worker

# Counts the imports, in a folder that is not emptied.
_COUNT = "import os\nwith open({path!r}, 'a') as file: file.write('imported\\n')\n"
ASK = "import os\ndef main(): return [os.getpid(), os.getppid()]\n"


class Imports:
    """Counts how often a worker has imported its function."""

    def __init__(self, worker: Worker) -> None:
        self.path = worker.make_open_folder() / "imports"
        self.source = _COUNT.format(path=str(self.path))

    @property
    def count(self) -> int:
        return len(self.path.read_text().splitlines())


def is_gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return stat[0] in "ZX" and int(stat[17]) <= 1  # the main thread may have ended, and others go on
    except (FileNotFoundError, ProcessLookupError):
        return True
