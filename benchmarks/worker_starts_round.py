"""One round of `worker_starts`: prints a JSON object. It measures the checkout in PYTHONPATH, also an older one."""

from gevent import monkey

monkey.patch_all()

import contextlib
import dataclasses
import http.client
import io
import json
import logging
import socket
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import gevent

from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings

_MEASURED = 50  # workers that are alive when memory is measured


def main() -> None:
    kind, starts = sys.argv[1], int(sys.argv[2])
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        values: dict[str, Any] = {"var_dir": Path(folder, "var")}
        if "worker_start" in {field.name for field in dataclasses.fields(Settings)}:
            values["worker_start"] = kind
        orchestrator = ProcessOrchestrator(Settings(**values))
        try:
            print(json.dumps(_round(orchestrator, Path(folder, "var"), starts)))
        finally:
            end = getattr(orchestrator, "detach", None) or orchestrator.close  # its name before there was adoption
            end()


def _round(orchestrator: ProcessOrchestrator, var_dir: Path, starts: int) -> dict[str, float]:
    install = (var_dir / "install-id").read_text().split()[0]
    orchestrator.start("first", "python3")
    taken, before, began = [], _cpu(install), time.perf_counter()
    for number in range(starts):
        at = time.perf_counter()
        orchestrator.start(f"row-{number}", "python3")
        taken.append((time.perf_counter() - at) * 1000)
    in_a_row, used = time.perf_counter() - began, _cpu(install) - before
    ended = []
    for number in range(starts):
        at = time.perf_counter()
        orchestrator.destroy(f"row-{number}")
        ended.append((time.perf_counter() - at) * 1000)
    began = time.perf_counter()
    gevent.joinall(
        [gevent.spawn(orchestrator.start, f"once-{number}", "python3") for number in range(starts)], raise_error=True
    )
    at_once = time.perf_counter() - began
    for number in range(starts):
        orchestrator.destroy(f"once-{number}")
    warm, assigned = _memory(orchestrator, install, min(starts, _MEASURED))
    return {
        "median ms": statistics.median(taken),
        "p99 ms": sorted(taken)[int(len(taken) * 0.99) - 1],
        "CPU ms": used / starts * 1000,
        "100 in a row s": in_a_row * 100 / starts,
        "100 at once s": at_once * 100 / starts,
        "destroy median ms": statistics.median(ended),
        "warm PSS MB": warm,
        "assigned PSS MB": assigned,
    }


def _memory(orchestrator: ProcessOrchestrator, install: str, count: int) -> tuple[float, float]:
    workers = [orchestrator.start(f"kept-{number}", "python3") for number in range(count)]
    names = [worker.worker_id for worker in workers]
    time.sleep(0.2)
    warm = statistics.mean(_pss(install, name) for name in names)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", "def main(name='World'):\n    return 'Hello, ' + name\n")
    load = json.dumps({"target": "f:0:x", "entry": "main.main", "memory_size": 128 << 20, "cpu": 100})
    for worker in workers:
        headers = {"X-Worker-Secret": worker.secret, "X-Load": load}
        assert _post(worker.address, "/load", archive.getvalue(), headers) == 200
        if _post(worker.address, "/execute", b'1 e 5\n{"context": {}}', headers) != 200:
            # A commit before this form of the request.
            call = {"token": 1, "execution_id": "e", "timeout_s": 5, "input": None}
            assert _post(worker.address, "/execute", json.dumps(call).encode(), headers) == 200
    return warm, statistics.mean(_pss(install, name) for name in names)


def _post(address: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    """The status. Workers of older commits listen on TCP."""
    connection = http.client.HTTPConnection("worker" if address.startswith("@") else address)
    if address.startswith("@"):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect("\0" + address[1:])
    with contextlib.closing(connection):
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status


def _pids(install: str, worker_id: str = "") -> set[str]:
    """The processes in the control groups of one worker, or of all workers and zygotes."""
    found: set[str] = set()
    for path in Path("/sys/fs/cgroup").rglob(f"qinling-falcon-{install}"):
        for group in path.rglob("cgroup.procs"):
            if not worker_id or worker_id in group.parts:
                found.update(group.read_text().split())
    return found


def _pss(install: str, worker_id: str) -> float:
    """Proportional share of memory of a worker's processes, in MB."""
    total = 0
    for pid in _pids(install, worker_id):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total * 1024 / 1e6


def _cpu(install: str) -> float:
    """CPU seconds of this process, and of all that is in the control groups."""
    used = time.process_time()
    for pid in _pids(install):
        for task in Path(f"/proc/{pid}/task").iterdir():
            used += int((task / "schedstat").read_text().split()[0]) / 1e9
    return used


main()
