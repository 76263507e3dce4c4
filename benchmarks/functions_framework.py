"""`functions-framework` (Python) with a function that does nothing, started as a user starts it.

Its latest version is installed into an environment of its own, in the user's folder of caches, where it stays for the
next run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.integration.service import free_port, wait_until

PACKAGE = "functions-framework"
FUNCTION = "def hello(request):\n    return 'Hello, World'\n"


def install() -> tuple[Path, str]:
    """The program and its version."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "qinling-falcon" / f"{PACKAGE}-python{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq", "--no-input"]
    program = folder / "bin" / PACKAGE
    subprocess.run([*pip, "install", "--upgrade", PACKAGE], check=not program.exists())  # without PyPI, as it is
    ask = f"import importlib.metadata; print(importlib.metadata.version('{PACKAGE}'))"
    version = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    return program, version


@contextlib.contextmanager
def functions_framework(program: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its URL; `folder` is where the function is written."""
    folder.mkdir()
    (folder / "main.py").write_text(FUNCTION)
    port = free_port()
    command = [str(program), "--target=hello", "--host=127.0.0.1", f"--port={port}"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GUNICORN")}
    with subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}/"
            wait_until(f"{PACKAGE} answers", lambda: requests.post(url, json={}, timeout=5).status_code == 200)
            yield process, url
        finally:
            process.send_signal(signal.SIGTERM)
