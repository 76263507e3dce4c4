"""The worker's program in a pod: PID 1 of a container, one user id, no capability, no control group of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.integration.service import Service, running_service, wait_until
from tests.kubernetes.namespaces import Namespace

MIB = 1 << 20
RESOURCES = "Function execution failed because of too much resource consumption"

# What the other processes of the pod show; and digests of all hexadecimal words in the function's own memory.
SPY = """
import glob, hashlib, os, re

def can_read(path):
    try:
        with open(path, 'rb') as file:
            return bool(file.read(1))
    except OSError:
        return False

def main():
    own = os.getpid()
    others = [int(path[6:]) for path in glob.glob('/proc/[0-9]*') if int(path[6:]) != own]
    names = ('environ', 'mem', 'maps', 'auxv', 'stack', 'syscall', 'io')
    read = [f'{pid}/{name}' for pid in others for name in names if can_read(f'/proc/{pid}/{name}')]
    opened = [pid for pid in others if os.access(f'/proc/{pid}/fd', os.R_OK)]
    digests = set()
    with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
        for line in maps.read().splitlines():
            begin, end = (int(number, 16) for number in line.split()[0].split('-'))
            if line.split()[1].startswith('r') and '[v' not in line:
                memory.seek(begin)
                for at in range(begin, end, 1 << 20):
                    try:
                        part = memory.read(min(1 << 20, end - at))
                    except OSError:
                        break
                    digests.update(hashlib.sha256(word).hexdigest() for word in re.findall(rb'[0-9a-f]{64}', part))
    return {
        'others': others, 'read': read, 'opened': opened, 'digests': sorted(digests), 'environ': dict(os.environ),
        'token': os.path.exists('/var/run/secrets'),
    }
"""

# Each folder in which a file can be made, and each file, except devices, that can be opened to write.
WRITER = """
import os, stat

def main(places=('/', '/dev', '/sys/fs/cgroup')):
    made, opened = [], []
    for place in places:
        for folder, folders, files in os.walk(place):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in ('/proc', '/sys')]
            path = os.path.join(folder, 'made by a function')
            try:
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                os.unlink(path)
                made.append(folder)
            except OSError:
                pass
            for name in files:
                path = os.path.join(folder, name)
                try:
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        os.close(os.open(path, os.O_WRONLY))
                        opened.append(path)
                except OSError:
                    pass
    for path in ('/proc/1/oom_score_adj', '/proc/self/oom_score_adj', '/proc/sysrq-trigger'):
        try:
            os.close(os.open(path, os.O_WRONLY))
            opened.append(path)
        except OSError:
            pass
    return [sorted(set(made)), opened]
"""

LEAVER = """
import glob, os, time

def main(leave=False, wait=0):
    if leave:
        for folder in ('/tmp', '/dev/shm'):
            os.makedirs(folder + '/left/deeper')
            open(folder + '/left/deeper/file', 'w').close()
            os.chmod(folder + '/left', 0)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        time.sleep(wait)
    mine = os.getpid(), os.getppid()
    others = [path for path in glob.glob('/proc/[0-9]*') if int(path[6:]) not in mine and is_function(path)]
    return [os.listdir('/tmp') + os.listdir('/dev/shm'), len(others)]

def is_function(path):
    # Those of the platform are not dumpable, so root owns their files.
    try:
        return os.stat(path + '/environ').st_uid == os.getuid()
    except OSError:
        return False
"""

# Socket buffers belong to no process, so only the container's limit bounds them.
GREEDY = """
import socket

def main(greedy=False):
    if greedy:
        own = bytearray(b'x') * (100 << 20)
        pairs = []
        while True:
            pairs.append(socket.socketpair())
            for end in pairs[-1]:
                end.setblocking(False)
                try:
                    while True:
                        end.send(b'x' * 4096)
                except BlockingIOError:
                    pass
    return 'modest'
"""

THREADS = """
import threading

def main(count, seconds):
    done = threading.Event()
    threads = [threading.Thread(target=done.wait, args=(seconds,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count
"""


@pytest.fixture(scope="module")
def service(namespace: Namespace) -> Iterator[Service]:
    with running_service(**namespace.settings(), max_workers=8, worker_idle_s=600) as running:
        yield running


def output_of(execution: dict[str, Any]) -> Any:
    return json.loads(execution["result"])["output"]


def pod_of(service: Service, namespace: Namespace, function_id: str) -> Any:
    """The pod of a function's only worker."""
    [worker] = service.request("GET", f"/v1/functions/{function_id}/workers").json()
    return namespace.core.read_namespaced_pod(namespace.worker_pod(worker["worker_name"]), namespace.name)


def key_and_secret(namespace: Namespace, pod: Any) -> tuple[str, str]:
    """The key of the pod's runtime, from its Secret, and the secret of the worker."""
    labels = pod.metadata.labels
    secret = namespace.core.read_namespaced_secret(f"runtime-{labels['qinling-falcon/runtime']}", namespace.name)
    key = base64.b64decode(secret.data["key"])
    return key.decode(), hmac.new(key, pod.metadata.uid.encode(), "sha256").hexdigest()


@pytest.mark.parametrize("isolation", ["warm", "per_call"])
def test_a_function_finds_neither_the_secret_of_its_worker_nor_the_key(
    service: Service, namespace: Namespace, isolation: str
) -> None:
    function = service.function(SPY, isolation=isolation, memory_size=128 * MIB, timeout=60)

    seen = output_of(service.call(function))

    key, secret = key_and_secret(namespace, pod_of(service, namespace, function))
    assert 1 in seen["others"], "it sees the supervisor"
    assert seen["read"] == []
    assert seen["opened"] == []
    assert not {hashlib.sha256(word.encode()).hexdigest() for word in (key, secret)} & set(seen["digests"])
    assert not [name for name in seen["environ"] if re.match("WORKER|POD|KUBERNETES", name)]
    assert not seen["token"]


def test_the_program_has_the_secret_that_the_key_gives(service: Service, namespace: Namespace) -> None:
    function = service.function(LEAVER)
    service.call(function)
    pod = pod_of(service, namespace, function)
    _, secret = key_and_secret(namespace, pod)
    url, body = f"http://{pod.status.pod_ip}:9090/cancel", {"execution_id": "none"}

    assert requests.post(url, json=body, headers={"X-Worker-Secret": "0" * 64}, timeout=10).status_code == 403
    assert requests.post(url, json=body, headers={"X-Worker-Secret": secret}, timeout=10).status_code == 404


def test_a_function_writes_to_its_scratch_folders_only(service: Service) -> None:
    made, opened = output_of(service.call(service.function(WRITER, timeout=120)))

    assert made == ["/dev/shm", "/tmp"]
    assert opened == []


@pytest.mark.parametrize("isolation", ["warm", "per_call"])
def test_what_an_execution_leaves_is_gone_after_a_timeout(service: Service, isolation: str) -> None:
    function = service.function(LEAVER, isolation=isolation, timeout=3)
    attacked = service.call(function, {"leave": True, "wait": 60})
    assert attacked["status_reason"] == "The function ran longer than its timeout of 3 s."

    assert output_of(service.call(function)) == [[], 0]


def test_with_isolation_by_call_it_is_gone_after_every_execution(service: Service) -> None:
    function = service.function(LEAVER, isolation="per_call")
    files, others = output_of(service.call(function, {"leave": True}))
    assert sorted(files) == ["left", "left"] and others == 1

    assert output_of(service.call(function)) == [[], 0]


def test_a_cancelled_execution_ends_and_its_worker_serves_the_next(service: Service, namespace: Namespace) -> None:
    function = service.function(LEAVER, timeout=300)
    service.call(function)
    pod = pod_of(service, namespace, function)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(service.call, function, {"leave": True, "wait": 250})
        [execution] = wait_until("it runs", service.running_executions)
        cancelled = service.request("PUT", f"/v1/executions/{execution}", json={"status": "cancelled"})
        assert cancelled.status_code == 202, cancelled.text
        assert call.result()["status"] == "cancelled"

    assert output_of(service.call(function)) == [[], 0]
    assert pod_of(service, namespace, function).metadata.uid == pod.metadata.uid


def test_a_kill_by_the_containers_memory_limit_ends_the_execution_and_not_the_pod(
    service: Service, namespace: Namespace
) -> None:
    function = service.function(GREEDY, memory_size=128 * MIB, timeout=120)
    service.call(function)
    pod = pod_of(service, namespace, function)

    killed = service.call(function, {"greedy": True})

    assert output_of(killed) == RESOURCES
    assert killed["status_reason"] == "The function used more than its memory_size of 134217728 bytes (128 MiB)."
    assert output_of(service.call(function)) == "modest"
    after = pod_of(service, namespace, function)
    assert after.metadata.uid == pod.metadata.uid
    assert after.status.container_statuses[0].restart_count == 0


def test_the_threads_of_one_pod_do_not_count_in_another(service: Service) -> None:
    """All pods of a node have the same user id. Each of these functions has fewer than MAX_PROCESSES of 128."""
    functions = [service.function(THREADS, timeout=60, memory_size=128 * MIB) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(service.call, each, {"count": 100, "seconds": 5}) for each in functions]
        assert [output_of(call.result()) for call in calls] == [100, 100, 100]


def test_more_than_max_processes_end_the_execution_with_the_reason(service: Service) -> None:
    function = service.function(THREADS, timeout=60, memory_size=128 * MIB)

    ended = service.call(function, {"count": 300, "seconds": 30})

    assert output_of(ended) == RESOURCES
    assert ended["status_reason"] == "The function had more than 128 processes and threads."
    assert output_of(service.call(function, {"count": 10, "seconds": 0})) == 10


def test_a_worker_ends_at_the_first_signal_also_while_a_function_runs(service: Service, namespace: Namespace) -> None:
    function = service.function("def main(loop=False):\n    while loop: pass\n    return 'fine'\n", timeout=300)
    service.call(function)
    pod = pod_of(service, namespace, function)
    body = {"function_id": function, "input": {"loop": True}}
    caller = threading.Thread(target=service.request, args=("POST", "/v1/executions"), kwargs={"json": body})
    caller.start()
    wait_until("it runs", service.running_executions)

    namespace.core.delete_namespaced_pod(pod.metadata.name, namespace.name, grace_period_seconds=120)

    def exit_code() -> list[int]:
        status = namespace.core.read_namespaced_pod(pod.metadata.name, namespace.name).status
        ended = status.container_statuses[0].state.terminated
        return [ended.exit_code] if ended else []

    assert wait_until("its container has ended", exit_code) == [0], "137 is SIGKILL, at the end of the grace"
    caller.join()
    assert output_of(service.call(function)) == "fine"


def test_a_worker_whose_container_was_restarted_is_replaced(service: Service, namespace: Namespace) -> None:
    function = service.function("calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n")
    assert output_of(service.call(function)) == 1
    pod = pod_of(service, namespace, function)
    _, secret = key_and_secret(namespace, pod)

    ended = requests.post(f"http://{pod.status.pod_ip}:9090/shutdown", headers={"X-Worker-Secret": secret}, timeout=10)

    assert ended.status_code == 202
    old = pod.metadata.labels["qinling-falcon/worker"]

    def is_replaced() -> bool:
        rows = service.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()
        return old not in [row["id"] for row in rows]

    wait_until("its worker is gone", is_replaced)
    wait_until("its pod is gone", lambda: pod.metadata.name not in [each.metadata.name for each in namespace.pods()])
    assert output_of(service.call(function)) == 1, "a new worker has imported the function anew"


def test_the_pool_tells_what_pods_lack(service: Service) -> None:
    host = service.request("GET", "/v1/pool").json()["host"]

    assert host["isolation"] == "kubernetes"
    features = [row["feature"] for row in host["missing"]]
    assert {"second uid", "process count", "memory cgroup", "cpu cgroup"} <= set(features)
    assert all(row["note"] for row in host["missing"])
