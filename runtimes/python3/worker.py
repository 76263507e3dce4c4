"""Entry point of a Python runtime worker: `python -I -S -B worker.py --listen-fd N --config-fd M [--group-fd G]`.

With `--zygote-fd N` instead, it becomes a zygote, from which workers are forked.
"""

from __future__ import annotations

import os
import sys

_KEPT = {"LC_CTYPE", "LD_LIBRARY_PATH"}  # Python sets the first itself; it may need the second to start at all


def run() -> int:
    """Start the worker in a process without environment variables, because every child inherits this memory."""
    if not _KEPT.issuperset(os.environ):
        kept = {name: value for name, value in os.environ.items() if name in _KEPT}
        given = [name if value is True else f"{name}={value}" for name, value in sys._xoptions.items()]
        options = [word for option in given for word in ("-X", option)]
        os.execve(sys.executable, [sys.executable, *options, "-I", "-S", "-B", *sys.argv], kept)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from qinling_worker.start import main

    status: int = main(sys.argv[1:])
    return status


if __name__ == "__main__":
    sys.exit(run())
