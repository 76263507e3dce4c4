"""What functions of an ordinary user's service can do, as JSON.

`functions_as_user.py VAR_DIR RUNTIMES_FILE SANDBOX WORKER_START`
"""

import contextlib
import http.client
import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path

from qinling_falcon.orchestrators.addresses import connect
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings
from tests.support.executions import read_answer_body, request_body
from tests.support.forks import FORK_AND_WAIT

FUNCTION = """
import asyncio, concurrent.futures, os, socket, subprocess, threading, time

data = b"x" * (64 << 20)
held = []

def threads():
    gate = threading.Barrier(13)
    started = [threading.Thread(target=gate.wait) for _ in range(12)]
    for thread in started:
        thread.start()
    gate.wait()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: time.sleep(0.01), range(12)))
    return asyncio.run(asyncio.to_thread(len, started))

def share():
    return fork_and_wait(4)

def fill():
    while True:
        try:
            pid = os.fork()
        except OSError:
            return len(held)
        if pid == 0:
            time.sleep(600)
        held.append(pid)

def leave():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sleep", [LEFT, "600"])
        os._exit(0)

def environment():
    for name in ("/dev/stdout", "/dev/stderr"):
        open(name, "w").close()
    for name in ("localhost", socket.gethostname()):
        with socket.create_server(("localhost", 0)) as server:
            socket.create_connection((name, server.getsockname()[1])).close()
    try:
        os.openpty()
    except OSError as error:
        return str(error)

def change():
    return [change_itself(), *fork_and_wait(1, lambda: os._exit(change_itself()))]

def change_itself():
    try:
        os.setpriority(os.PRIO_PROCESS, os.getpid(), 5)
        return 0
    except PermissionError:
        return 1

calls = 0

def look():
    # What a call sees of the calls before. It leaves files and a process for the next one.
    global calls
    calls += 1
    home = os.environ["HOME"]
    folders = [home, "/dev/shm"] if home == "/tmp" else [home]  # without a sandbox, /dev/shm is the host's
    seen = [calls, [name for folder in folders for name in os.listdir(folder) if LEFT in name]]
    for folder in folders:
        open(f"{folder}/{LEFT}", "w").close()
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    return seen

def main(action):
    return globals()[action]()
"""


LEFT = f"left-by-a-function-{os.getpid()}"


def request(worker, path, body, headers):
    connection = http.client.HTTPConnection("worker")
    connection.sock = connect(worker.address, 60)
    connection.request("POST", path, body, {"X-Worker-Secret": worker.secret, **headers})
    answer = connection.getresponse()
    return answer.status, read_answer_body(answer.read())


def load(worker, isolation="warm"):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", f"LEFT = {LEFT!r}\n{FORK_AND_WAIT}{FUNCTION}")
    target = {"target": "f:0:x", "entry": "main.main", "memory_size": 128 << 20, "cpu": 100}
    target["isolation"] = isolation
    assert request(worker, "/load", archive.getvalue(), {"X-Load": json.dumps(target)})[0] == 200


tokens = iter(range(1, 100))


def call(worker, action):
    given = json.dumps({"action": action})
    return request(worker, "/execute", request_body(next(tokens), timeout_s=20, given=given), {})[1]["output"]


def left():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found += [pid] if LEFT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


def is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


_, var_dir, runtimes_file, sandbox, worker_start = sys.argv
settings = Settings(
    var_dir=Path(var_dir), runtimes_file=Path(runtimes_file), sandbox=sandbox, worker_start=worker_start,
    max_processes=40,
)  # fmt: skip
orchestrator = ProcessOrchestrator(settings)
workers = [orchestrator.start(name, "python3") for name in ("w1", "w2")]
for worker in workers:
    load(worker)
actions = ("threads", "environment", "share", "share", "share", "change", "leave")
found = {action: call(workers[0], action) for action in actions}
deadline = time.monotonic() + 10
while not left() and time.monotonic() < deadline:
    time.sleep(0.01)
found["left before"] = len(left())
while not all(map(is_stopped, left())) and time.monotonic() < deadline:
    time.sleep(0.01)
found["stopped"] = list(map(is_stopped, left()))
found["processes"] = [call(worker, "fill") for worker in workers]
alone = orchestrator.start("w3", "python3")
load(alone, "per_call")
found["change alone"] = call(alone, "change")
found["alone"] = [call(alone, "look") for _ in range(3)]
orchestrator.destroy("w1")
found["left after"] = len(left())
orchestrator.detach()
print(json.dumps(found))
