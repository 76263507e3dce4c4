"""`make run` with Keystone: the service's own user registers the runtimes, others call with tokens of their own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from qinling_falcon.settings_environment import read_settings
from tests.integration.service import ROOT
from tests.run.make_run import MakeRun, make_run, var_dir
from tests.servers.openstack import Keystone
from workers.run.client import Api, Away
from workers.run.errors import StartError

OPENSTACK = ROOT / ".client" / "bin" / "openstack"


@pytest.fixture
def folder() -> Iterator[Path]:
    with var_dir() as made:
        yield made


def printed(running: MakeRun, beginning: str) -> str:
    (line,) = (line.strip() for line in running.output.splitlines() if line.strip().startswith(beginning))
    return line


def as_user(keystone: Keystone, user: str) -> dict[str, str]:
    """The environment of a shell whose OS_* are a user's."""
    about = keystone.settings(user) | {"OS_AUTH_TYPE": "password", "OS_IDENTITY_API_VERSION": "3"}
    about |= {"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default"}
    return os.environ | about | {"PATH": f"{OPENSTACK.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.skipif(not OPENSTACK.exists(), reason="no openstack command: make test installs it into .client")
def test_printed_calls_work_for_a_user_and_ctrl_c_leaves_nothing(keystone: Keystone, folder: Path) -> None:
    with make_run(folder, **keystone.settings()) as running:
        script = "\n".join(["set -e", printed(running, "TOKEN="), *running.calls])
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=as_user(keystone, "alice"), text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "Hello, Ada!" in done.stdout
        assert "faultstring" not in done.stdout
        assert running.request("GET", "/v1/functions").status_code == 401
        secret = keystone.state["users"]["qinling"]["password"]
        assert secret not in running.output + running.log_tails()

        running.interrupt()

        running.wait_nothing_left(2)


def test_whom_the_policy_does_not_let_register_runtimes_says_who_does(keystone: Keystone, folder: Path) -> None:
    rules = folder / "policy.yaml"
    alice = keystone.state["users"]["alice"]["id"]
    rules.write_text(f"runtime:create: user_id:{alice}")
    with make_run(folder, **keystone.settings(), POLICY_FILE=rules) as running:
        assert "the policy (runtime:create) does not let qinling do that" in running.output
        body = {"image": "python3", "name": printed(running, "Runtime ").split()[1]}
        headers = {"X-Auth-Token": keystone.token("alice")}
        assert running.request("POST", "/v1/runtimes", json=body, headers=headers).status_code == 201
        assert printed(running, "RUNTIME=ID").endswith(f"{running.url}/v1/runtimes")


def test_it_starts_while_keystone_is_away(keystone: Keystone, folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = {"OS_AUTH_URL": f"http://127.0.0.1:{nobody.getsockname()[1]}/v3"}
        with make_run(folder, **keystone.settings() | away) as running:
            assert "does not answer. Until it does, calls are answered 503" in running.output
            assert running.request("GET", "/healthz").status_code == 200
            answer = requests.get(f"{running.url}/v1/runtimes", headers={"X-Auth-Token": "any"}, timeout=30)
            assert answer.status_code == 503

            running.interrupt()

            running.wait_nothing_left(2)


def test_a_log_in_that_keystone_refuses_is_told_from_one_that_it_does_not_answer(keystone: Keystone) -> None:
    settings = read_settings(keystone.settings() | {"OS_PASSWORD": "wrong", "KEYSTONE_TIMEOUT_S": "0.5"})
    with pytest.raises(StartError, match=f"Keystone at {keystone.url} refuses OS_USERNAME=qinling"):
        Api(settings).log_in()
    with keystone.hung(), pytest.raises(Away, match="does not answer"):
        Api(settings).log_in()
