"""Finds out which kernel features can confine functions on this host. The worker's own code tries them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KERNEL_FEATURES = ("process count", "seccomp", "landlock", "landlock scopes")
_RUNTIME = Path(__file__).parents[3] / "runtimes" / "python3"
_TRIAL = "import sys; sys.path.insert(0, sys.argv[1]); from qinling_worker.host_check import main; main()"
_TIMEOUT_S = 10


def try_kernel() -> dict[str, str]:
    """For each of `KERNEL_FEATURES`, why it does not work on this host; an empty text if it works."""
    command = [sys.executable, "-I", "-S", "-B", "-c", _TRIAL, str(_RUNTIME)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return dict.fromkeys(KERNEL_FEATURES, str(error))
    if done.returncode != 0:
        last = (done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1]
        return dict.fromkeys(KERNEL_FEATURES, last)
    found: dict[str, str] = json.loads(done.stdout)
    return found
