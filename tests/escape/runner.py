"""Runs attempts in real workers, and prints the outcome of each as a line of JSON: `python -m escape.runner PLAN`.

This runs in a copy of the program, maybe as an ordinary user. It needs no packages but those of the service.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import json
import os
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from escape.bait import laid_out

from qinling_falcon.orchestrators.addresses import connect
from qinling_falcon.orchestrators.base import StartFailed, WorkerInfo
from qinling_falcon.orchestrators.process.isolation import isolation_report
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

_MAIN = """
import importlib

def main(module, function, given):
    try:
        return {"returned": getattr(importlib.import_module(module), function)(*given)}
    except OSError as error:
        return {"returned": False, "said": str(error)}
"""
_CALLS = """
import ctypes, os
from numbers_of_calls import NUMBERS
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(name, *arguments):
    number = NUMBERS[os.uname().machine].get(name, -1)  # -1: not on this architecture
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in (number, *arguments)]
    result = libc.syscall(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""
_OTHER = "other "  # begins the names of other tenants' workers


class Runner:
    """Runs the attempts of a plan.

    Args:
        orchestrator: makes the workers.
        package: the zip archive with all attempts as modules.
    """

    def __init__(self, orchestrator: ProcessOrchestrator, package: bytes):
        self._orchestrator = orchestrator
        self._package = package
        self._workers: dict[str, WorkerInfo] = {}
        self._numbers = itertools.count(1)

    def run(self, module: str, attempt: dict[str, Any]) -> str:
        """Run an attempt. Returns `succeeded`, `refused`, or a description of what else has happened."""
        loads = json.dumps(attempt["load"]).replace("MODULE", module)
        given: list[Any] = []
        for function, worker in (("earlier", loads), ("other", _OTHER + loads)):
            if f"def {function}(" in attempt["source"]:
                status, answer = self._call(worker, attempt, module, function, [])
                if status != "returned":
                    return f"{function}: {status}: {answer}"
                given.append(answer["returned"])
        time.sleep(attempt["pause_s"])
        status, answer = self._call(loads, attempt, module, "attempt", given)
        if status == "returned":
            succeeded = answer["returned"]
            if attempt["outlives"] and succeeded:
                succeeded = self._end_worker_and_look_for(loads, answer["returned"])
            return "succeeded" if succeeded else "refused"
        if status in attempt["succeeded_as"]:
            return "succeeded"
        return "refused" if status in attempt["refused_as"] else f"{status}: {answer}"

    def _end_worker_and_look_for(self, worker: str, word: str) -> bool:
        """End a worker. Returns whether a process with this word in its command line still runs; ends that, too."""
        self._orchestrator.destroy(self._workers.pop(worker).worker_id)
        found = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and word in _words_of(entry)]
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        return bool(found)

    def _call(
        self, name: str, attempt: dict[str, Any], module: str, function: str, given: list[Any]
    ) -> tuple[str, Any]:
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = self._start(json.loads(name.removeprefix(_OTHER)))
        call = json.dumps({"module": module, "function": function, "given": given})
        body = f'{next(self._numbers)} e {attempt["timeout_s"]}\n{{"context": {{}}}}\n{call}'
        try:
            answer = self._request(worker, "/execute", body.encode())
        except OSError as error:
            self._workers.pop(name)
            return "lost", str(error)
        except ValueError as error:
            return "broken answer", str(error)
        if answer["status"] != "success":
            return str(answer["reason"]), [answer["message"], answer["log"][-1000:]]
        return "returned", answer["output"]

    def _start(self, load: dict[str, Any]) -> WorkerInfo:
        worker = self._orchestrator.start(f"w{next(self._numbers)}", "python3")
        target = {"target": "f:0:x", "entry": "main.main", "memory_size": 64 * MIB, "cpu": 100} | load
        self._request(worker, "/load", self._package, {"X-Load": json.dumps(target)})
        return worker

    def _request(
        self, worker: WorkerInfo, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection("worker")
        connection.sock = connect(worker.address, 60)
        try:
            connection.request("POST", path, body, {"X-Worker-Secret": worker.secret} | (headers or {}))
            response = connection.getresponse()
            line, _, rest = response.read().partition(b"\n")
            answer: dict[str, Any] = json.loads(line)
            if "output_size" in answer:  # the answer to an execution (runtimes/python3/README.md)
                size = answer["output_size"]
                answer |= {"output": json.loads(rest[:size]), "log": rest[size:].decode()}
            if response.status != 200:
                raise StartFailed(f"{path} answered {response.status}: {answer}")
            return answer
        finally:
            connection.close()


def _words_of(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    settings = Settings(var_dir=Path(plan["var_dir"]), runtimes_file=Path(plan["runtimes_file"]), **plan["settings"])
    settings.var_dir.mkdir(exist_ok=True)
    with laid_out(settings.var_dir, plan["numbers"][plan["machine"]]) as host:
        orchestrator = ProcessOrchestrator(settings)
        try:
            print(json.dumps({name: available for name, available, _ in isolation_report(settings)}), flush=True)
            runner = Runner(orchestrator, _package(plan, host))
            for number, attempt in enumerate(plan["attempts"]):
                print(json.dumps([attempt["name"], runner.run(f"attempt_{number}", attempt)]), flush=True)
        finally:
            orchestrator.detach()


def _package(plan: dict[str, Any], host: dict[str, Any]) -> bytes:
    files = {f"attempt_{number}.py": attempt["source"] for number, attempt in enumerate(plan["attempts"])}
    files |= {"main.py": _MAIN, "calls.py": _CALLS, "host.py": "".join(f"{k} = {v!r}\n" for k, v in host.items())}
    files["numbers_of_calls.py"] = f"NUMBERS = {plan['numbers']!r}\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    return archive.getvalue()


if __name__ == "__main__":
    main()
