"""Starts the real worker program and talks to it."""

from __future__ import annotations

import array
import contextlib
import http.client
import io
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.executions import read_answer_body, request_body

PYTHON = os.environ.get("WORKER_PYTHON", sys.executable)  # workers run on older versions, too
FIRST_PASSED = 3  # the number that a forked worker gets its first descriptor under
ZYGOTE = Path(__file__).with_name("zygote.py")
PROGRAM = Path(__file__).parents[2] / "runtimes" / "python3" / "worker.py"
SECRET = "s3cret-of-this-worker"
MIB = 1 << 20
SUPERVISOR = 1  # the supervisor's uid is so much above the child's
OUT_OF_RESOURCES = "Function execution failed because of too much resource consumption"


def package(source: str | dict[str, str | bytes]) -> bytes:
    """A zip with `main.py`, or with the files given."""
    files = {"main.py": source} if isinstance(source, str) else source
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def command(folder: Path, uid: int | None, *options: str, is_zygote: bool = False) -> list[str]:
    """How the program is started: as it is, or under a uid of its own with the capabilities to make `uid` the child's.

    Python and program are then mounted where these uids can read them, because they may lie below a private home. A
    zygote stays root: its workers change their uid themselves.
    """
    python = Path(os.path.realpath(PYTHON))
    prefix = python.parents[1]
    flags = ["-I", "-S", "-B"] + ([str(ZYGOTE)] if is_zygote else [])
    if uid is None:
        return [str(python), *flags, str(PROGRAM), *options]
    python_copy, program_copy = folder / "python", folder / "program"
    python_copy.mkdir()
    program_copy.mkdir()
    script = 'mount --bind "$0" "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'
    capabilities = "-all,+setuid,+setgid,+kill,+setpcap"
    become = [
        "setpriv", f"--reuid={uid + SUPERVISOR}", f"--regid={uid + SUPERVISOR}", "--clear-groups", "--no-new-privs",
        f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}",
    ]  # fmt: skip
    return [
        "unshare", "--mount", "sh", "-c", script, str(prefix), str(python_copy), str(PROGRAM.parent), str(program_copy),
        *([] if is_zygote else become),
        str(python_copy / python.relative_to(prefix)), *flags, str(program_copy / PROGRAM.name), *options,
    ]  # fmt: skip


class Zygote:
    """A zygote, whose workers stay in this machine's namespaces (`zygote.py`).

    Args:
        folder: where Python and the program are mounted.
        options: further arguments of `zygote.py`.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        uid = 0 if os.geteuid() == 0 else None
        with theirs:
            self._process = subprocess.Popen(
                command(folder, uid, str(theirs.fileno()), *options, is_zygote=True), pass_fds=[theirs.fileno()],
                env={"QF_TEST_MARK": "environment-of-the-supervisor"}, start_new_session=True,
            )  # fmt: skip
        self._numbers = itertools.count()
        self._ended: dict[str, int] = {}
        assert self._receive() == {"ready": True}

    def fork(self, uid: int | None, passed: list[int]) -> ForkedProcess:
        """Fork a worker.

        Args:
            uid: the worker's user id; None: that of the zygote.
            passed: descriptors, the listening socket first and then the configuration.
        """
        name = str(next(self._numbers))
        request = {
            "sandbox": {
                "worker_id": name, "folder": "", "uid": uid, "child_uid": None, "tmp_size": 0, "shm_size": 0,
                "own_network": False,
            },
            "passed": len(passed), "listen_fd": FIRST_PASSED, "config_fd": FIRST_PASSED + 1, "entrances": 0,
            "has_folder": False, "needs_folder": False, "group_fd": None,
        }  # fmt: skip
        fds = array.array("i", [*passed, 2])
        self._control.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        report = self._receive()
        while "status" in report:
            self._ended[report["worker"]] = report["status"]
            report = self._receive()
        return ForkedProcess(self, name, report["pid"])

    def status_of(self, name: str) -> int | None:
        """The exit status of a worker, once it has ended."""
        while name not in self._ended and select.select([self._control], [], [], 0)[0]:
            report = self._receive()
            self._ended[report["worker"]] = report["status"]
        return self._ended.get(name)

    def close(self) -> None:
        """End it."""
        self._control.close()
        self._process.wait(20)

    def _receive(self) -> dict[str, Any]:
        data, ancillary, _, _ = self._control.recvmsg(65536, socket.CMSG_SPACE(4))
        for _, _, content in ancillary:
            os.close(array.array("i", content)[0])  # a pidfd
        report: dict[str, Any] = json.loads(data)
        return report


class ForkedProcess:
    """A worker's supervisor that a zygote has forked, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, zygote: Zygote, name: str, pid: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._name = name

    def poll(self) -> int | None:
        """The exit status, once the process has ended."""
        return self._zygote.status_of(self._name)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process. Returns its exit status."""
        wait_until(lambda: self.poll() is not None, timeout or 20)
        status = self.poll()
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Answer:
    """An `/execute`'s answer."""

    status: str
    reason: str | None
    output: Any
    duration: float
    log: str
    message: str | None = None

    @property
    def printed(self) -> str:
        """The log without its first and last line."""
        lines = self.log.splitlines(keepends=True)
        assert lines[0].startswith("Start execution: ")
        assert lines[-1].startswith("Finished execution: ")
        return "".join(lines[1:-1])


class Worker:
    """One worker process, from its start to its end."""

    def __init__(
        self, folder: Path, uid: int | None, isolation: str = "warm", *, zygote: Zygote | None = None, **config: Any
    ) -> None:
        self.folder = folder
        self.isolation = isolation
        self.uid = uid
        self.tokens = itertools.count(1)
        self.code_dir = folder / "code"
        self.scratch = folder / "scratch"
        for path in (self.code_dir, self.scratch):
            path.mkdir(exist_ok=True)
        self.code_dir.chmod(0o755)
        self.scratch.chmod(0o1777)
        self.config = {
            "secret": SECRET, "code_dir": str(self.code_dir), "scratch_dirs": [str(self.scratch)],
            "child_uid": uid, "child_gid": uid, "cpu_shares_fd": None, "max_result_size": MIB,
            "max_log_size": 64 * 1024, "max_processes": 64, "max_open_files": 256, "max_file_size": 8 * MIB,
            "load_timeout_s": 5.0, "max_package_files": 100, "max_unpacked_size": 4 * MIB,
            "memory_fds": {},
        } | config  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config_fd, write_fd = os.pipe()
        passed = [listener.fileno(), config_fd]
        for holder, name in (
            (self.config, "cpu_shares_fd"), *((self.config["memory_fds"], use) for use in self.config["memory_fds"])
        ):  # fmt: skip
            if holder[name] is not None:
                passed.append(holder[name])
                if zygote is not None:
                    holder[name] = FIRST_PASSED + len(passed) - 1
        if uid is not None:
            os.chown(self.code_dir, uid + SUPERVISOR, uid + SUPERVISOR)
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if zygote is not None:
            self.process = zygote.fork(None if uid is None else uid + SUPERVISOR, passed)
        else:
            self.process = subprocess.Popen(
                command(folder, uid, "--listen-fd", str(passed[0]), "--config-fd", str(passed[1])),
                pass_fds=passed,
                env={"QF_TEST_MARK": "environment-of-the-supervisor"},
                start_new_session=True,
            )
        os.close(config_fd)
        with open(write_fd, "w") as pipe:
            json.dump(self.config, pipe)
        listener.close()

    def connect(self, timeout_s: float = 60) -> http.client.HTTPConnection:
        """A new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        connection.connect()
        assert connection.sock is not None
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(
        self, method: str, path: str, body: bytes | None = None, secret: str | None = SECRET, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """One request on a connection of its own: status and JSON body."""
        connection = self.connect()
        try:
            if secret is not None:
                headers["X-Worker-Secret"] = secret
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, read_answer_body(response.read())
        finally:
            connection.close()

    def load(self, code: str | dict[str, str | bytes] | bytes, **load: Any) -> tuple[int, dict[str, Any]]:
        """POST /load."""
        header = {"target": "function:1:abc", "entry": "main.main", "memory_size": 32 * MIB, "cpu": 100}
        header |= {"isolation": self.isolation} | load
        data = code if isinstance(code, bytes) else package(code)
        return self.request("POST", "/load", data, **{"X-Load": json.dumps(header)})

    def execution(self, given: str | None = None, **fields: Any) -> bytes:
        """The body of an /execute."""
        token = next(self.tokens)
        return request_body(**({"token": token, "execution_id": f"e{token}", "given": given} | fields))

    def execute(self, given: str | None = None, **fields: Any) -> Answer:
        """POST /execute, which must be accepted."""
        status, answer = self.request("POST", "/execute", self.execution(given, **fields))
        assert status == 200, answer
        return read_answer(answer)

    def outputs(self, times: int, given: str | None = None) -> list[Any]:
        """Execute the function several times. All executions must succeed."""
        answers = [self.execute(given) for _ in range(times)]
        assert [answer.status for answer in answers] == ["success"] * times, [answer.message for answer in answers]
        return [answer.output for answer in answers]

    @contextlib.contextmanager
    def executing(self, given: str | None = None, **fields: Any) -> Iterator[Callable[[], Answer]]:
        """Send an /execute. The block gets a function that waits for its answer."""
        connection = self.connect()
        try:
            connection.request("POST", "/execute", self.execution(given, **fields), {"X-Worker-Secret": SECRET})
            yield lambda: read_answer(read_answer_body(connection.getresponse().read()))
        finally:
            connection.close()

    def execute_in_killed(self, pid: int) -> Answer:
        """Send an /execute to a process that is stopped before the request arrives, and killed afterwards.

        The template is stopped meanwhile. It may have stopped the process too, as idle, and would let it go on for the
        call.
        """
        template = self.template()
        os.kill(template, signal.SIGSTOP)
        os.kill(pid, signal.SIGSTOP)
        try:
            with self.executing() as answer:
                assert self.request("GET", "/ping")[0] == 200
                os.kill(pid, signal.SIGKILL)
                os.kill(template, signal.SIGCONT)
                return answer()
        finally:
            os.kill(template, signal.SIGCONT)

    def make_open_folder(self) -> Path:
        """Make a folder that functions may write to, and that is not emptied between calls."""
        folder = self.folder / "open"
        folder.mkdir()
        folder.chmod(0o777)
        return folder

    def processes(self) -> list[int]:
        """The processes below the supervisor, and those of the second uid."""
        parents: dict[int, list[int]] = {}
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    status = (entry / "status").read_text()
                except OSError:
                    continue
                if stat[0] in "ZX" and int(stat[17]) <= 1:  # the main thread may have ended, and others go on
                    continue
                parents.setdefault(int(stat[1]), []).append(int(entry.name))
                if self.uid is not None and int(status.partition("Uid:\t")[2].split()[0]) == self.uid:
                    found.add(int(entry.name))
        waiting = [self.process.pid]
        while waiting:
            children = parents.get(waiting.pop(), [])
            waiting += children
            found.update(children)
        return sorted(found)

    def template(self) -> int:
        """The pid of the template process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def stop(self) -> None:
        """End the worker, and wait until nothing of it is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        wait_until(lambda: not self.processes())


def read_answer(answer: dict[str, Any]) -> Answer:
    """An /execute's answer, checked for its shape."""
    assert set(answer) == {"status", "reason", "message", "duration_s", "busy_s", "output", "log"}
    assert 0 <= answer["duration_s"] <= answer["busy_s"] + 1e-6
    assert (answer["message"] is None) == (answer["status"] == "success")
    members = ("status", "reason", "output", "duration_s", "log", "message")
    return Answer(*(answer[member] for member in members))


def wait_until(condition: Any, timeout_s: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.01)
