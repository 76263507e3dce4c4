"""Things that functions expect of a machine, such as `localhost`, in the sandbox of the shipped Python runtime."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.process import etc
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings
from tests.support.executions import request_body

from .conftest import REPOSITORY, for_one_test, make_settings, request, shared_orchestrator

Call = Callable[[str], dict[str, Any]]


def _together(start: str, sandbox: str) -> pytest.MarkDecorator:
    """Has tests run in one process, because they share an orchestrator."""
    return pytest.mark.xdist_group(f"function-environment-{start}-{sandbox}")


def call(worker: WorkerInfo, code: str) -> dict[str, Any]:
    """The answer of a function that has `code` as its body."""
    archive = io.BytesIO()
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", f"import os, pty, socket, subprocess, sys\ndef main():\n{body}")
    target = {"target": "f:0:x", "entry": "main.main", "memory_size": 64 * MIB, "cpu": 100}
    headers = {"X-Worker-Secret": worker.secret, "X-Load": json.dumps(target)}
    assert request(worker.address, "POST", "/load", archive.getvalue(), headers) == (200, {"loaded": True})
    status, answer = request(worker.address, "POST", "/execute", request_body(), headers)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((start, sandbox), id=f"{start}-{sandbox}", marks=_together(start, sandbox))
        for start, sandbox in itertools.product(("auto", "exec"), ("auto", "rlimits"))
    ],
)
def function_settings(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Settings:
    """The settings of the orchestrator that these tests share."""
    start, sandbox = request.param
    shipped = REPOSITORY / "config" / "runtimes.toml"
    settings = make_settings(
        tmp_path_factory.mktemp("environment"), runtimes_file=shipped, worker_start=start, sandbox=sandbox
    )
    return dataclasses.replace(settings, max_processes=128)


@pytest.fixture(scope="module")
def shared(function_settings: Settings) -> Iterator[ProcessOrchestrator]:
    with shared_orchestrator(function_settings) as orchestrator:
        yield orchestrator


@pytest.fixture
def function(shared: ProcessOrchestrator) -> Iterator[Call]:
    """Runs code as a function in a worker of its own."""
    with for_one_test(shared) as orchestrator:
        worker = orchestrator.start("w1", "python3")
        yield lambda code: call(worker, code)


def test_localhost_and_the_own_name_resolve(function: Call) -> None:
    answer = function(
        """
for _, _, _, _, address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.create_server(address[:2], family=family) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()
return [socket.gethostbyname("localhost"), bool(socket.gethostbyname(socket.gethostname())), bool(socket.getfqdn())]
"""
    )
    assert answer["output"] == ["127.0.0.1", True, True], answer


def test_names_of_the_host_are_known_with_its_network(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> None:
    shipped = REPOSITORY / "config" / "runtimes.toml"
    settings = dataclasses.replace(settings, runtimes_file=shipped, network="host", max_processes=128)
    names = ["localhost", socket.gethostname()]
    worker = make_orchestrator(settings).start("w1", "python3")
    answer = call(worker, f"return [socket.gethostbyname(name) for name in [*{names}, socket.gethostname()]]")
    assert answer["output"][:2] == [socket.gethostbyname(name) for name in names], answer


def test_a_hosts_file_keeps_what_the_host_says(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "127.0.0.1 localhost # function\n10.0.0.1 db function\n"
    path = tmp_path / "hosts"
    monkeypatch.setattr(etc, "_HOSTS", path)
    for text, expected in (
        (said, said),
        (said.replace(" function\n10", "\n10").replace("db function", "db"), None),
        ("10.0.0.1 db", None),
        (None, None),
    ):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        made = etc.made_files(Settings(network="host"), 1, 1)[str(path)]
        assert made.startswith(text or "")
        assert expected is None or made == expected
        names = {name for line in made.splitlines() for name in line.partition("#")[0].split()[1:]}
        assert {"localhost", "function"} <= names
    assert etc.made_files(Settings(), 1, 1)[str(path)].splitlines()[0] == "127.0.0.1 localhost"


def test_the_log_can_be_opened_by_name(function: Call) -> None:
    answer = function("open('/dev/stdout', 'w').write('out\\n')\nopen('/dev/stderr', 'a').write('err\\n')")
    assert "out\nerr\n" in answer["log"], answer


@pytest.mark.parametrize("wanted", ["os.openpty()", "os.forkpty()", "pty.openpty()", "pty.spawn(['true'])"])
def test_pseudo_terminals_are_refused_clearly_in_a_sandbox(
    function: Call, wanted: str, function_settings: Settings
) -> None:
    answer = function(f"{wanted}\nreturn 'opened'")
    if function_settings.sandbox == "rlimits" and os.path.exists("/dev/ptmx"):
        assert answer["output"] == "opened"
    else:
        assert "Functions have no pseudo terminals; use pipes" in answer["log"]
        assert answer["reason"] == "exception"


def test_temporary_folders_of_other_names_can_be_written(function: Call, function_settings: Settings) -> None:
    answer = function(
        """
names = ["/tmp", "/var/tmp", os.environ["TMPDIR"], os.path.expanduser("~")]
for name in names:
    path = f"{name}/qf-test-{os.getpid()}"
    open(path, "x").close()
    os.unlink(path)
return os.path.samefile("/tmp", "/var/tmp")
"""
    )
    if function_settings.sandbox == "rlimits":
        assert "PermissionError" in answer["message"], answer  # the host's /var/tmp
    else:
        assert answer["output"] is True, answer


def test_the_user_has_a_name(function: Call, function_settings: Settings) -> None:
    answer = function("import getpass, pwd\nreturn [getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name]")
    if function_settings.sandbox == "rlimits" and os.geteuid() == 0:
        assert "uid not found" in answer["message"], answer  # in the host's /etc/passwd
    elif function_settings.sandbox == "rlimits":
        assert answer["output"][0] == "function", answer
    else:
        assert answer["output"] == ["function", "function"], answer


def test_devices_can_be_used(function: Call) -> None:
    answer = function(
        """
seen = []
for name in ("null", "zero", "urandom", "random"):
    with open(f"/dev/{name}", "r+b", buffering=0) as file:
        seen.append([file.write(b"x"), len(file.read(8))])
open("/dev/null", "w").close()
subprocess.run("echo x >/dev/null </dev/null", shell=True, check=True)
try:
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error:
    seen.append(error.errno)
return seen
"""
    )
    assert answer["output"] == [[1, 0], [1, 8], [1, 8], [1, 8], errno.ENOSPC], answer
