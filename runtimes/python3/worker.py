"""Entry point of a Python runtime worker: `python -I -S -B worker.py --listen-fd N --config-fd M`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from qinling_worker.start import main

    sys.exit(main(sys.argv[1:]))
