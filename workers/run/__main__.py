"""`python -m workers.run`: start the service, say how to use it, stop it on a signal."""

from __future__ import annotations

import argparse
import collections
import json
import logging
import logging.handlers
import os
import signal
import sys
from pathlib import Path

from qinling_falcon.observability.logs import EventFormatter
from qinling_falcon.settings import SettingsError
from qinling_falcon.settings_environment import read_settings
from workers.run import linux
from workers.run.errors import StartError
from workers.run.service import Service
from workers.run.signals import StopSignals

_TAIL_LINES = 20
_ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the service; the exit code is 0 after an orderly stop, 1 when it couldn't start or broke."""
    parser = argparse.ArgumentParser(prog="python -m workers.run", description=__doc__)
    parser.add_argument("--end-with-parent", action="store_true", help="stop when the process that started this ends")
    arguments = parser.parse_args()
    signals = StopSignals()
    if arguments.end_with_parent:
        linux.end_with_parent(signal.SIGTERM)
    os.chdir(_ROOT)
    try:
        settings = read_settings()
        if settings.policy_file is not None:
            from qinling_falcon.auth.policy import Policy  # a quarter of a second

            Policy(settings.policy_file)  # web would not start
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    log_dir = settings.var_dir.absolute() / "log"
    try:
        _make_log_dir(log_dir)
        _log_to(log_dir / "run.log", settings.log_level)
        Service(settings, _ROOT, signals).run()
    except StartError as error:
        logging.getLogger(__name__).critical(str(error))
        print(f"Qinling-Falcon stopped: {error}", file=sys.stderr)
        if error.log:
            _print_tail(log_dir / f"{error.log}.log")
        return 1
    except (OSError, SettingsError, ValueError) as error:
        print(f"Qinling-Falcon stopped: {error}", file=sys.stderr)
        return 1
    return 0


def _make_log_dir(folder: Path) -> None:
    """Make the folder of all logs, for this user alone, and `VAR_DIR` above it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"VAR_DIR={folder.parent}: expected a folder that can be used: {error}") from error


def _log_to(path: Path, level: str) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=5_000_000, backupCount=2, delay=True)
    handler.setFormatter(EventFormatter("run"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _print_tail(path: Path) -> None:
    if path.exists():
        with path.open(errors="replace") as log:
            tail = collections.deque(log, _TAIL_LINES)
        print(f"The end of {path}:", file=sys.stderr)
        for line in tail:
            print(f"  {_readable(line)}", file=sys.stderr)


def _readable(line: str) -> str:
    """A line of a log for a person: an event's time, level, text and the end of its traceback."""
    try:
        event = json.loads(line)
        text = f"{event['time']} {event['level']} {event['event']}"
    except (ValueError, KeyError, TypeError):
        return line.rstrip()
    return "\n    ".join([text, *event.get("traceback", "").splitlines()[-3:]])


if __name__ == "__main__":
    sys.exit(main())
