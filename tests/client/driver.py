"""The real client, as tests use it: its library, and the `openstack` commands that it adds.

It lives in an environment of its own, `.client`; one process of it (`inside.py`) makes all calls of a module of tests.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service import ROOT

_HOME = ROOT / ".client"
_ENDPOINT_OPTIONS = ("--os-auth-type", "none", "--os-endpoint")


class ClientError(Exception):
    """What the library raised: the name of its class, its `code` and its text."""

    def __init__(self, kind: str, code: int | str | None, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


class Client:
    """The library's client: `client.functions.create(…)` and so on; a `Path` as an argument is that file, opened."""

    def __init__(self, driver: Driver, *, session: bool):
        self._driver = driver
        self._session = session

    def __getattr__(self, manager: str) -> _Manager:
        return _Manager(self._driver, {"manager": manager, "session": self._session})


class _Manager:
    def __init__(self, driver: Driver, request: dict[str, Any]):
        self._driver = driver
        self._request = request

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._driver.ask(self._request | {"method": method, "args": args, "kwargs": kwargs})

        return call


class Driver:
    """The process in the client's environment.

    Args:
        url: the root of the service; None: Keystone's catalogue knows.
        folder: its home, which has no settings of other clouds; commands run in it.
        account: whose account it is in OpenStack, as OS_* variables.
    """

    def __init__(self, url: str | None, folder: Path, account: Mapping[str, str] | None = None):
        self.folder = folder
        self._options = [] if url is None else [*_ENDPOINT_OPTIONS, url]
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PYTHON"))}
        self._environ |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(folder)) | {"LC_ALL": "C.UTF-8"}
        self._environ |= account or {}
        if not (_HOME / "stamp").exists():
            pytest.fail(f"python-qinlingclient is not installed in {_HOME}; `make test` does that.", pytrace=False)
        self._process = subprocess.Popen(
            [_HOME / "bin" / "python", "-I", Path(__file__).with_name("inside.py"), url or ""],
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """The answer to one request, as `inside.py` describes them.

        Raises:
            ClientError: the library raised something.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request, default=_file) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client's process ended: {self._process.wait(10)}"
        answer = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            raise ClientError(error["class"], error["code"], error["message"])
        return answer["value"]

    def openstack(self, *argv: object) -> Done:
        """Run `openstack ARGV` against the service, with a program that is loaded already."""
        request = {"argv": [*self._options, *map(str, argv)], "folder": str(self.folder)}
        return Done(**self.ask(request))

    def executable(self, *argv: object) -> Done:
        """Run the very `openstack` that users type; takes a second or two."""
        done = subprocess.run(
            [_HOME / "bin" / "openstack", *self._options, *map(str, argv)],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *argv: object) -> Any:
        """What a command prints with `-f json`."""
        done = self.openstack(*argv, "-f", "json")
        assert done.status == 0, done
        return json.loads(done.stdout)

    def prints(self, *argv: object) -> str:
        """What a command prints that succeeds."""
        done = self.openstack(*argv)
        assert done.status == 0, done
        return done.stdout

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextlib.contextmanager
def running_driver(url: str | None, account: Mapping[str, str] | None = None) -> Iterator[Driver]:
    """A driver in a home of its own; ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="qf-client-") as folder:
        driver = Driver(url, Path(folder), account)
        try:
            yield driver
        finally:
            driver.close()


def body_of(response: dict[str, Any]) -> bytes:
    """The body of an HTTP response that the library has returned."""
    return base64.b64decode(response["body"])


def output_of(execution: dict[str, Any]) -> Any:
    """What the function returned, in an execution that the library has returned."""
    return json.loads(execution["result"])["output"]


def _file(value: object) -> Any:
    if isinstance(value, Path):
        return {"$file": str(value)}
    raise TypeError(f"{value!r} is no argument for the client")
