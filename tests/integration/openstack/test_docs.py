"""docs/openstack.md, as a reader would try it: all of its `sh` blocks, in one shell, in an empty home."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service import ROOT, free_port, wait_until
from tests.run.make_run import var_dir
from tests.servers.openstack import Keystone, running_keystone, running_swift

CLIENT = ROOT / ".client" / "bin"
_ACCOUNTS = 3  # so many blocks come first, up to those that make the account and the endpoint
# No error is hidden by a command that goes on, and nothing outlives a script that breaks off.
_STRICT = "set -euo pipefail; trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\n"


@pytest.fixture
def cloud() -> Iterator[Keystone]:
    """A Keystone of its own, for the reader changes it, and a Swift; no Function Engine is registered."""
    with running_keystone() as keystone, running_swift(keystone):
        token = keystone.token("admin")
        for service in keystone.request("GET", "/services?type=function-engine", token).json()["services"]:
            assert keystone.request("DELETE", f"/services/{service['id']}", token).status_code == 204
        yield keystone


def blocks() -> list[str]:
    return re.findall(r"(?ms)^```sh\n(.*?)^```", (ROOT / "docs" / "openstack.md").read_text())


@contextlib.contextmanager
def openstack_command(home: Path) -> Iterator[Path]:
    """A folder with the command `openstack`. The real client runs it, and is loaded once for all commands."""
    scripts = ROOT / "tests" / "client"
    folder = home / "bin"
    folder.mkdir()
    command = folder / "openstack"
    command.write_text(
        f"#!/bin/sh\nOPENSTACK_SERVER={folder}/server exec {sys.executable} -IS {scripts}/openstack_command.py \"$@\"\n"
    )
    command.chmod(0o755)
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    server = subprocess.Popen([CLIENT / "python", scripts / "openstack_server.py", folder / "server"], env=environ)
    try:
        wait_until("the client is loaded", (folder / "server").exists)
        yield folder
    finally:
        server.kill()
        server.wait()


@pytest.mark.skipif(not (CLIENT / "openstack").exists(), reason="make test installs openstack into .client")
def test_its_commands_lead_to_a_first_call(cloud: Keystone) -> None:
    with var_dir() as home, openstack_command(home) as commands:
        port = free_port()
        said = shell(cloud, home, commands, blocks(), port)
        for words in ("Hello, Ada!", "Hello, Swift!", "Hello, CI!", "swifty"):
            assert words in said
        log = home / "falcon" / "falcon.log"
        assert "the policy (runtime:create) does not let falcon do that" in log.read_text()
        password = re.search("OS_PASSWORD=(.+)", (home / "falcon" / "falcon.env").read_text())
        assert password
        logs = "".join(path.read_text() for path in [log, *(home / "falcon" / "var" / "log").glob("*.log")])
        assert password[1] not in logs
        shell(cloud, home, commands, blocks()[:_ACCOUNTS], port)  # once more, on what the first time has left
    token = cloud.token("admin")
    [service] = cloud.request("GET", "/services?type=function-engine", token).json()["services"]
    endpoints = cloud.request("GET", f"/endpoints?service_id={service['id']}", token).json()["endpoints"]
    assert len(endpoints) == 1


def shell(cloud: Keystone, home: Path, commands: Path, script_blocks: list[str], port: int) -> str:
    """Run some of the blocks, with a service at `port`; what they print."""
    folder = home / "falcon"
    folder.mkdir(exist_ok=True)
    for user, name in (("admin", "admin-openrc.sh"), ("alice", "demo-openrc.sh")):
        (folder / name).write_text((cloud.folder / f"{user}.rc").read_text())
    script = _STRICT + "\n".join(script_blocks)
    for ours in ("http://127.0.0.1:", "PORT="):
        script = script.replace(f"{ours}7070", f"{ours}{port}")
    assert "7070" not in script
    own = {"HOME": str(home), "WARM_WORKERS": "2", "MAX_WORKERS": "8"}
    environ = {name: os.environ[name] for name in ("LANG", "XDG_CACHE_HOME") if name in os.environ} | own
    environ["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=180)
    log = folder / "falcon.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    return done.stdout
