"""A real Keystone and a real Swift, from the tools beside the checkout; without those their tests are skipped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

TOOLS = Path(__file__).parents[2].parent / "shared" / "tools"
# The first start on a machine makes a Python environment.
START_TIMEOUT_S = 400
# Its SQLite is locked now and then while others write, which is a 500.
_LOG_INS = 3


class Keystone:
    """One Keystone, with the users that its README names.

    Attributes:
        url: ends in `/v3`.
        state: what its `state.json` holds.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        self.url: str = self.state["url"]

    def settings(self, user: str = "qinling") -> dict[str, str]:
        """The environment of a service that uses this Keystone as `user`."""
        about = self.state["users"][user]
        return {
            "AUTH_MODE": "keystone",
            "OS_AUTH_URL": self.url,
            "OS_USERNAME": user,
            "OS_PASSWORD": about["password"],
            "OS_PROJECT_NAME": about["project"],
            "OS_REGION_NAME": self.state["region"],
        }

    def log_in(self, user: str, scope: dict[str, Any] | str | None = None, **identity: Any) -> requests.Response:
        """POST /auth/tokens by password, scoped to the user's project unless `scope` says otherwise."""
        about = self.state["users"][user]
        password = {"user": {"id": about["id"], "password": about["password"]}}
        auth: dict[str, Any] = {"identity": identity or {"methods": ["password"], "password": password}}
        auth["scope"] = scope if scope is not None else {"project": {"id": about["project_id"]}}
        for _ in range(_LOG_INS):
            answer = requests.post(f"{self.url}/auth/tokens", json={"auth": auth}, timeout=30)
            if answer.status_code < 500:
                break
        return answer

    def token(self, user: str, scope: dict[str, Any] | str | None = None) -> str:
        """A new token."""
        answer = self.log_in(user, scope)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["X-Subject-Token"])

    def revoke(self, token: str) -> None:
        """End a token, by its own right."""
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        answer = requests.delete(f"{self.url}/auth/tokens", headers=headers, timeout=30)
        assert answer.status_code == 204, answer.text

    def expiring_token(self, user: str, left_s: float | None = None) -> str:
        """A token that has ended, or ends in `left_s`."""
        left = [] if left_s is None else [str(left_s)]
        script = TOOLS / "keystone" / "expired_token.py"
        command = [self.state["python"], str(script), str(self.folder), user, *left]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def request(self, method: str, path: str, token: str, **arguments: Any) -> requests.Response:
        """A call of Keystone's API; `path` begins after `/v3`."""
        headers = {"X-Auth-Token": token}
        return requests.request(method, self.url + path, headers=headers, timeout=30, **arguments)


    def endpoint(self, service_type: str) -> str:
        """The URL of a service in the catalogue, as it was registered."""
        token = self.token("admin")
        service = self.request("GET", f"/services?type={service_type}", token).json()["services"][0]
        endpoints = self.request("GET", f"/endpoints?service_id={service['id']}", token).json()["endpoints"]
        return str(endpoints[0]["url"])

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing listens meanwhile; then it is the same one again."""
        # A start writes these anew; whoever has changed them meanwhile would be lost.
        urls = {"FUNCTION_ENGINE_URL": self.endpoint("function-engine"), "SWIFT_URL": self.endpoint("object-store")}
        _run("keystone/stop.sh", str(self.folder))
        try:
            yield
        finally:
            _run("keystone/start.sh", "--quiet", "--state", str(self.folder), **urls)
            self.state = json.loads((self.folder / "state.json").read_text())

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections and answers nothing meanwhile."""
        group = int((self.folder / "keystone.pid").read_text())
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)


class Swift:
    """One Swift that believes a Keystone's tokens, and is in its catalogue."""

    def __init__(self, folder: Path):
        self.folder = folder

    def set(self, action: str, *names: str) -> None:
        """`stop`, `start`, `pause` or `resume` some of its servers: proxy, account, container, object."""
        for name in names:
            _run("swift/server.sh", str(self.folder), action, name)

    def stopped(self, *names: str) -> contextlib.AbstractContextManager[None]:
        """These servers don't run meanwhile."""
        return self._between("stop", "start", names)

    def hung(self, *names: str) -> contextlib.AbstractContextManager[None]:
        """These servers take connections and answer nothing meanwhile."""
        return self._between("pause", "resume", names)

    @contextlib.contextmanager
    def _between(self, before: str, after: str, names: tuple[str, ...]) -> Iterator[None]:
        self.set(before, *names)
        try:
            yield
        finally:
            self.set(after, *names)


@contextlib.contextmanager
def running_keystone(**environ: str) -> Iterator[Keystone]:
    """Start a Keystone of one's own; skips where that can't be."""
    with tempfile.TemporaryDirectory(prefix="qf-keystone-") as name:
        folder = Path(name) / "state"
        _start("Keystone", "keystone/start.sh", "--quiet", "--state", str(folder), **environ)
        try:
            yield Keystone(folder)
        finally:
            _run("keystone/stop.sh", str(folder))


@contextlib.contextmanager
def running_swift(keystone: Keystone, **environ: str) -> Iterator[Swift]:
    """Start a Swift of one's own that uses `keystone`; skips where that can't be."""
    with tempfile.TemporaryDirectory(prefix="qf-swift-") as name:
        folder = Path(name) / "state"
        own = {"SWIFT_STATE": str(folder), "SWIFT_AUTH": "keystone", "SWIFT_TOKEN_CACHE_TIME": "1"}
        own |= {"KEYSTONE_STATE": str(keystone.folder), "KEYSTONE_URL": keystone.url}
        _start("Swift", "swift/start.sh", **own, **environ)
        try:
            yield Swift(folder)
        finally:
            _run("swift/stop.sh", str(folder))


def _start(what: str, script: str, *arguments: str, **environ: str) -> None:
    if not TOOLS.is_dir():
        pytest.skip(f"no {what}: {TOOLS} is missing")
    command = ["bash", str(TOOLS / script), *arguments]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | environ, timeout=START_TIMEOUT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no {what}: {script} failed: {str(error.stderr)[-500:]}")


def _run(script: str, *arguments: str, **environ: str) -> None:
    command = ["bash", str(TOOLS / script), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=os.environ | environ)
