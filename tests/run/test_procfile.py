"""The lines of the Procfile suffice to serve a first call, without `make run` and without registering anything."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import ROOT, Service, free_port, wait_until
from tests.servers.valkey import valkey
from workers.run.supervision import read_procfile

pytestmark = [pytest.mark.xdist_group("procfile"), pytest.mark.timeout(180)]

HELLO = "def main(name='World'):\n    return f'Hello, {name}!'\n"
LINES = {program.name: shlex.split(program.command) for program in read_procfile(ROOT / "Procfile")}


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="qf-") as folder, valkey() as redis_url:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GUNICORN")}
        yield environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PORT": str(free_port()),
            "VAR_DIR": folder,
            "REDIS_URL": redis_url,
            "WARM_WORKERS": "1",
            "MAX_WORKERS": "4",
        }


def release(environ: dict[str, str]) -> str:
    done = subprocess.run(LINES["release"], cwd=ROOT, env=environ, text=True, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_fresh_deployment_serves_a_call_and_a_second_release_changes_nothing(environ: dict[str, str]) -> None:
    assert "runtimes: python3" in release(environ)
    service = Service(int(environ["PORT"]), Path(environ["VAR_DIR"]), environ)
    names = [name for name in LINES if name != "release"]
    try:
        for name in names:
            service.start(name, *LINES[name])
        wait_until("it is ready", lambda: service.request("GET", "/readyz").status_code == 200, 60)
        before = service.request("GET", "/v1/runtimes").json()
        assert [row["name"] for row in before] == ["python3"]
        wait_until("its runtime is available", lambda: runtime(service)["status"] == "available", 60)
        function_id = service.function(HELLO, runtime_id=before[0]["id"])
        assert "Hello, Ada!" in service.call(function_id, {"name": "Ada"})["result"]

        assert "nothing to register" in release(environ)

        assert [row["id"] for row in service.request("GET", "/v1/runtimes").json()] == [before[0]["id"]]
        assert "Hello, Bob!" in service.call(function_id, {"name": "Bob"})["result"]
    finally:
        for name in names:
            if name in service.processes:
                service.stop(name)


def runtime(service: Service) -> dict[str, str]:
    (row,) = service.request("GET", "/v1/runtimes").json()
    return dict(row)


def test_a_setting_turns_the_registration_off(environ: dict[str, str]) -> None:
    assert "nothing to register" in release(environ | {"REGISTER_RUNTIMES": "false"})
    assert "runtimes: python3" in release(environ)


def test_a_wrong_table_of_runtimes_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    wrong = environ | {"RUNTIMES_FILE": str(tmp_path / "none.toml")}
    done = subprocess.run(LINES["release"], cwd=ROOT, env=wrong, text=True, capture_output=True, timeout=90)
    assert done.returncode != 0
    assert "RUNTIMES_FILE=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_that_the_policy_forbids_to_register_gets_a_message(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("runtime:create: role:nobody")
    refused = environ | {"POLICY_FILE": str(tmp_path / "policy.yaml")}
    done = subprocess.run(LINES["release"], cwd=ROOT, env=refused, text=True, capture_output=True, timeout=90)
    assert done.returncode == 0
    assert "Runtime python3 is not registered: the policy (runtime:create)" in done.stderr
