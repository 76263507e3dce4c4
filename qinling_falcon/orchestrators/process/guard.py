"""A process beside the manager that ends what a killed manager leaves behind.

Workers die with their manager by the kernel's signal at the parent's death, but bubblewrap has a moment in which
that cannot reach: its inner process waits, deaf, for the outer one, and waits for ever when that was killed. So a
process of its own reads from a pipe that only the manager holds open; at its end it kills every process with the
install's mark. It shares the lock on the install, so that the next manager's workers are never among them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qinling_falcon.orchestrators.process import leftovers

_TIMEOUT_S = 4.0
_ROOT = Path(__file__).resolve().parents[3]


class Guard:
    """Watches over this process until `close`.

    Args:
        install_id: of the install whose workers are ended.
        lock: the descriptor that holds the install.
    """

    def __init__(self, install_id: str, lock: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, install_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[lock],
            env={"PYTHONPATH": str(_ROOT)},
            cwd="/",
            start_new_session=True,  # what is sent to the manager's group is not for it
        )

    def close(self) -> None:
        """Have it look once more and end."""
        self._process.communicate()


def _main(install_id: str) -> None:
    while os.read(0, 1):
        pass
    mark = leftovers.mark(install_id)
    leftovers.end(lambda: leftovers.kill_found([mark]), _TIMEOUT_S)


if __name__ == "__main__":
    _main(sys.argv[1])
