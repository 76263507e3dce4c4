"""Stops, kills and starts the servers of the throw-away cluster that the tests run in."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import requests
import urllib3

from tests.integration.service import wait_until


class Server:
    """One server of the control plane, such as `kube-apiserver` or `etcd`.

    Args:
        folder: the cluster's folder.
        name: of the server.
    """

    def __init__(self, folder: Path, name: str):
        self.name = name
        self._folder = folder
        lines = [line.split() for line in (folder / "pids").read_text().splitlines()]
        pids = {name: int(pid) for pid, _, name in lines}
        holder = (folder / "state.json").read_text().partition('"holder"')[2].split('"')[1]
        self._enter = ["nsenter", "-t", holder, "-n", "-m", "-p", "-u", "-i", "--"]
        # `nsenter` waits for the server, which is its child.
        self._nsenter = pids[name]
        self._pid = _child(self._nsenter)
        self._command = Path(f"/proc/{self._pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")

    def send(self, sig: int) -> None:
        """Send the server a signal."""
        os.kill(self._pid, sig)
        if sig == signal.SIGCONT:
            os.kill(self._nsenter, sig)  # it has stopped itself with its child

    def kill(self) -> None:
        """Kill the server, and wait until it is gone."""
        self.send(signal.SIGKILL)
        wait_until(f"{self.name} has ended", lambda: not _is_running(self._pid))

    def start(self) -> None:
        """Start the server again, with the same command. Nothing waits for it."""
        with (self._folder / "logs" / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._enter, *(word.decode() for word in self._command)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._nsenter = process.pid
        self._pid = wait_until(f"{self.name} has started", lambda: _child(self._nsenter))


class ControlPlane:
    """The servers of the cluster.

    Attributes:
        api: the API server.
        etcd: its database.
        kubelet: of the only node.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.api = Server(folder, "kube-apiserver")
        self.etcd = Server(folder, "etcd")
        self.kubelet = Server(folder, "kubelet")

    def wait(self) -> None:
        """Wait until the API server is ready."""
        headers = {"Authorization": f"Bearer {(self._folder / 'token').read_text()}"}

        def is_ready() -> bool:
            with contextlib.suppress(requests.RequestException):
                answer = requests.get("https://127.0.0.1:6443/readyz", headers=headers, verify=False, timeout=2)
                return answer.status_code == 200
            return False

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        wait_until("the API server is ready", is_ready, 60)

    def copy_etcd(self) -> Path:
        """Copy the database, while it is stopped. Returns the copy."""
        copy = self._folder / "etcd-copy"
        self.api.kill()
        self.etcd.kill()
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder / "etcd", copy)
        self._start()
        return copy

    def restore_etcd(self, copy: Path) -> None:
        """Replace the database by a copy."""
        self.api.kill()
        self.etcd.kill()
        shutil.rmtree(self._folder / "etcd")
        shutil.copytree(copy, self._folder / "etcd")
        self._start()

    def _start(self) -> None:
        self.etcd.start()
        self.api.start()
        self.wait()


def control_plane() -> ControlPlane:
    """The control plane of the cluster that the tests run in; skips the test where it is not ours."""
    folder = os.environ.get("KUBERNETES_CLUSTER_DIR")
    if folder is None:
        pytest.skip("stops servers of the control plane, which needs a throw-away cluster")
    return ControlPlane(Path(folder))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0
