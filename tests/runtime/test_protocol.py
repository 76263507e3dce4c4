"""What the worker's HTTP interface promises."""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
import threading
from pathlib import Path

from tests.runtime.client import SECRET, Worker, package, read_answer, wait_until
from tests.runtime.conftest import MakeWorker, by_isolation
from tests.support.executions import read_answer_body

HELLO = "def main(name='World'):\n    return 'Hello, ' + name\n"
WAIT = """
import os, time
def main(path):
    open(path, 'w').close()
    while not os.path.exists(path + '.go'):
        time.sleep(0.005)
    return 'went on'
"""


def test_ping_is_open_and_everything_else_needs_the_secret(worker: Worker) -> None:
    assert worker.request("GET", "/ping", secret=None) == (200, {"ready": True, "loaded": False, "busy": False})
    for method, path in [("POST", "/load"), ("POST", "/execute"), ("POST", "/cancel"), ("POST", "/shutdown")]:
        for secret in (None, "", SECRET + "x", "é"):
            assert worker.request(method, path, b"{}", secret=secret)[0] == 403
    assert worker.request("GET", "/ping")[0] == 200


def test_an_execution_has_its_result_duration_and_log(worker: Worker) -> None:
    assert worker.load("def main(name):\n    print('Hello!')\n    return {'to': name}\n") == (200, {"loaded": True})
    answer = worker.execute('{"name": "foo"}', execution_id="0f1e")
    assert (answer.status, answer.reason, answer.output) == ("success", None, {"to": "foo"})
    assert answer.log == "Start execution: 0f1e\nHello!\nFinished execution: 0f1e\n"


def test_many_requests_share_one_connection(worker: Worker) -> None:
    worker.load(HELLO)
    connection = worker.connect()
    for _ in range(5):
        connection.request("POST", "/execute", worker.execution('{"name": "x"}'), {"X-Worker-Secret": SECRET})
        assert read_answer(read_answer_body(connection.getresponse().read())).output == "Hello, x"
        connection.request("GET", "/ping")
        assert json.loads(connection.getresponse().read()) == {"ready": True, "loaded": True, "busy": False}
    connection.close()


@by_isolation
def test_requests_may_come_in_pieces_and_in_a_row(worker: Worker) -> None:
    worker.load(HELLO)
    bodies = [worker.execution(f'{{"name": "{name}"}}') for name in "ab"]
    head = b"POST /execute HTTP/1.1\r\nx-worker-secret: %s\r\ncontent-length: %d\r\n\r\n"
    data = b"".join(head % (SECRET.encode(), len(body)) + body for body in bodies)
    data += b"GET /ping HTTP/1.1\r\n\r\n" * 1000
    with socket.create_connection(("127.0.0.1", worker.port), 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, 400, 7):
            sock.sendall(data[at : at + 7])
        sock.sendall(data[406:])
        received = b""
        while received.count(b'"ready"') < 1000:
            data = sock.recv(65536)
            assert data
            received += data
    assert received.index(b"Hello, a") < received.index(b"Hello, b") < received.index(b"ready")


def test_bad_http_gets_its_answer(worker: Worker) -> None:
    requests = {
        b"nonsense\r\n\r\n": 400,
        b"GET /nothing HTTP/1.1\r\nX-Worker-Secret: %s\r\n\r\n": 404,
        b"POST /execute HTTP/1.1\r\nX-Worker-Secret: %s\r\nContent-Length: x\r\n\r\n": 400,
        b"POST /execute HTTP/1.1\r\nX-Worker-Secret: %s\r\nContent-Length: 99999999\r\n\r\n": 413,
        b"POST /execute HTTP/1.1\r\nX-Worker-Secret: %s\r\nTransfer-Encoding: chunked\r\n\r\n": 411,
        b"GET /ping HTTP/1.1\r\nA: " + b"x" * 40_000: 431,
    }
    for data, status in requests.items():
        with socket.create_connection(("127.0.0.1", worker.port), 20) as sock:
            sock.sendall(data.replace(b"%s", SECRET.encode()))
            response = http.client.HTTPResponse(sock)
            response.begin()
            assert response.status == status
            assert "error" in json.loads(response.read())
    assert worker.request("GET", "/ping")[0] == 200


def test_what_is_no_execution_is_refused(worker: Worker) -> None:
    worker.load(HELLO)
    about = b'{"context": {}}'
    firsts = [b"", b"x e 1", b"1 e", b"1 e 1 1", b"1  1", b"1 e 0", b"1 e nan", b"1 e inf", b"1 e -1", b"1 \xc3\xa9 1"]
    bodies = [first + b"\n" + about for first in firsts]
    bodies += [b"", b"1 e 1", b"1 e 1\n", b"1 e 1\n3", b"1 e 1\n" + about + b"\n\xff", b"{" * 100_000]
    for body in bodies:
        status, answer = worker.request("POST", "/execute", body)
        assert status == 400, body[:100]
        assert answer["error"]
    assert worker.execute().output == "Hello, World"


def test_execute_needs_a_loaded_function(worker: Worker) -> None:
    assert worker.request("POST", "/execute", worker.execution()) == (409, {"error": "not loaded"})


def test_a_worker_serves_one_target(worker: Worker) -> None:
    assert worker.load(HELLO)[0] == 200
    assert worker.load(HELLO)[0] == 200
    assert worker.load(HELLO, target="other:1:abc") == (409, {"error": "another target is loaded already"})


def test_a_bad_load_header_is_refused(worker: Worker) -> None:
    good = {"target": "t", "entry": "a.b", "memory_size": 1, "cpu": 1}
    changes: list[dict[str, object]] = [{"target": 1}, {"entry": None}, {"memory_size": -1}, {"cpu": True}]
    for header in ["", "{}", "[]", "\xe9", *(json.dumps(good | change) for change in changes)]:
        assert worker.request("POST", "/load", package(HELLO), **{"X-Load": header})[0] == 400, header
    assert worker.load(HELLO)[0] == 200


def test_old_tokens_never_run(worker: Worker) -> None:
    worker.load("runs = []\ndef main():\n    runs.append(1)\n    return len(runs)\n")
    assert worker.execute(token=7).output == 1
    for token in (7, 6, 0):
        assert worker.request("POST", "/execute", worker.execution(token=token)) == (409, {"error": "stale token"})
    assert worker.execute(token=8).output == 2


def test_one_execution_at_a_time(worker: Worker, tmp_path: Path) -> None:
    worker.load(WAIT)
    path = worker.scratch / "began"
    answers = []
    thread = threading.Thread(target=lambda: answers.append(worker.execute(str(path), token=5)))
    thread.start()
    wait_until(path.exists)
    assert worker.request("POST", "/execute", worker.execution("x", token=6)) == (409, {"error": "busy"})
    assert worker.request("GET", "/ping")[0] == 200
    (worker.scratch / "began.go").touch()
    thread.join()
    assert answers[0].output == "went on"


def test_cancel_ends_the_running_execution_and_no_other(worker: Worker) -> None:
    worker.load({"main.py": WAIT, "other.py": ""})
    path = worker.scratch / "began"
    answers = []
    thread = threading.Thread(target=lambda: answers.append(worker.execute(str(path), execution_id="me")))
    thread.start()
    wait_until(path.exists)
    assert worker.request("POST", "/cancel", b'{"execution_id": "you"}')[0] == 404
    assert worker.request("POST", "/cancel", b"x")[0] == 400
    assert worker.request("POST", "/cancel", b'{"execution_id": "me"}')[0] == 202
    thread.join()
    assert (answers[0].status, answers[0].reason) == ("cancelled", "cancelled")
    assert worker.request("POST", "/cancel", b'{"execution_id": "me"}')[0] == 404
    assert not path.exists()  # the scratch folder was emptied
    (worker.scratch / "b.go").touch()
    assert worker.execute(str(worker.scratch / "b")).output == "went on"


def test_an_execution_whose_client_has_gone_runs_to_its_end(worker: Worker) -> None:
    worker.load(WAIT.replace("return", "open(path + '.end', 'w').close(); return"))
    path = worker.scratch / "began"
    connection = worker.connect()
    connection.request("POST", "/execute", worker.execution(str(path)), {"X-Worker-Secret": SECRET})
    wait_until(path.exists)
    connection.close()
    (worker.scratch / "began.go").touch()
    wait_until((worker.scratch / "began.end").exists)
    (worker.scratch / "next.go").touch()
    wait_until(lambda: worker.request("POST", "/execute", worker.execution(str(worker.scratch / "next")))[0] == 200)


def test_shutdown_ends_everything(worker: Worker) -> None:
    worker.load("import subprocess\ndef main():\n    subprocess.Popen(['sleep', '600'], start_new_session=True)\n")
    assert worker.execute().status == "success"
    assert worker.request("POST", "/shutdown") == (202, {})
    assert worker.process.wait(20) == 0
    wait_until(lambda: not worker.processes())


def test_nothing_is_left_when_the_supervisor_is_killed(worker: Worker) -> None:
    worker.load("import subprocess\ndef main():\n    subprocess.Popen(['sleep', '600'], start_new_session=True)\n")
    assert worker.execute().status == "success"
    below = worker.processes()
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def test_cpu_becomes_the_weight_of_the_group(make_worker: MakeWorker) -> None:
    for kind, text in (("shares", "205"), ("weight", "20")):
        with tempfile.NamedTemporaryFile() as file:
            worker = make_worker(cpu_shares_fd=file.fileno(), cpu_shares_format=kind)
            worker.load(HELLO, cpu=200)
            assert Path(file.name).read_text() == text


def test_the_function_is_called_as_its_input_says(worker: Worker) -> None:
    worker.load("def main(*args, **kwargs):\n    kwargs.pop('context')\n    return [list(args), kwargs]\n")
    calls = {
        None: [[], {}],
        '{"a": 1, "b": [null]}': [[], {"a": 1, "b": [None]}],
        ' {"a": 1}\n': [[], {"a": 1}],
        "{}": [[], {}],
        "": [[""], {}],
        "plain": [["plain"], {}],
        "[1]": [["[1]"], {}],
        "3": [["3"], {}],
        "null": [["null"], {}],
        '"quoted"': [['"quoted"'], {}],
        '{"a": NaN}': [['{"a": NaN}'], {}],
        '{"a": 1} b': [['{"a": 1} b'], {}],
        '{"a": ' + "[" * 5000: [['{"a": ' + "[" * 5000], {}],
        '{"a": ' + "1" * 5000 + "}": [['{"a": ' + "1" * 5000 + "}"], {}],
    }
    for given, seen in calls.items():
        answer = worker.execute(given)
        assert (answer.status, answer.output) == ("success", seen), given


def test_context_goes_to_those_who_take_it(make_worker: MakeWorker) -> None:
    source = """
def taker(context):
    seen = dict(context)
    seen['remaining_s'] = 0 < context['remaining_s']() <= 3
    return seen
def other(a=1):
    return a
async def later(a, context):
    return [a, context['execution_id']]
class Callable:
    def __call__(self, *, context): return context['timeout']
thing = Callable()
"""
    context = {"function_id": "f", "function_version": 2, "request_id": "r"}
    sent = {"execution_id": "e", "timeout_s": 3, "context": context}
    outputs = {}
    for entry, given in (("taker", None), ("other", None), ("later", '{"a": 5}'), ("thing", None)):
        worker = make_worker()
        worker.load(source, entry=f"main.{entry}")
        outputs[entry] = worker.execute(given, **sent).output
    assert outputs["taker"] == {
        "os_session": None, "os_session_error": "the function has no trust", "execution_id": "e", "function_id": "f",
        "function_version": 2, "request_id": "r", "timeout": 3, "remaining_s": True,
    }  # fmt: skip
    assert outputs["other"] == 1
    assert outputs["later"] == [5, "e"]
    assert outputs["thing"] == 3


def test_module_state_lives_on_and_imports_come_from_the_package(worker: Worker) -> None:
    worker.load(
        {
            "main.py": "import config, supervisor\nfrom lib import loop\nn = 0\n"
            "def main():\n    global n\n    n += 1\n"
            "    return [n, config.X, loop.Y, supervisor.Z, open('data.txt').read()]\n",
            "config.py": "X = 1\n",
            "supervisor.py": "Z = 3\n",
            "lib/__init__.py": "",
            "lib/loop.py": "Y = 2\n",
            "data.txt": "data",
        }
    )
    assert worker.outputs(2) == [[1, 1, 2, 3, "data"], [2, 1, 2, 3, "data"]]


@by_isolation
def test_large_inputs_and_results_pass(worker: Worker) -> None:
    worker.load("def main(text):\n    return text\n")
    text = "ä" * 300_000
    assert worker.execute(text).output == text


@by_isolation
def test_what_the_import_prints_is_in_the_first_log(worker: Worker) -> None:
    worker.load("print('imported')\ndef main():\n    print('called')\n")
    assert worker.execute().printed == "imported\ncalled\n"
    assert worker.execute().printed == "called\n"


@by_isolation
def test_the_child_inherits_no_descriptor(worker: Worker) -> None:
    worker.load(
        "import os, subprocess\ndef main():\n"
        "    mine = {n: os.readlink(f'/proc/self/fd/{n}') for n in map(int, os.listdir('/proc/self/fd'))"
        " if os.path.exists(f'/proc/self/fd/{n}')}\n"
        "    os.system('ls /proc/self/fd')\n"
        "    return mine\n"
    )
    answer = worker.execute()
    kinds = sorted(target.partition(":")[0] for target in answer.output.values())
    assert kinds.count("socket") == 1  # its channel
    assert kinds.count("pipe") == 3  # 1, 2 and the traceback's
    assert set(kinds) <= {"socket", "pipe", "/dev/null"} | {k for k in kinds if k.startswith("/proc/")}
    assert answer.printed.split() == ["0", "1", "2", "3"]  # 3 is the listing's own


@by_isolation
def test_the_child_has_a_small_world(worker: Worker) -> None:
    worker.load(
        """
import os, resource, sys
def main():
    lines = open('/proc/self/status').read().splitlines()
    status = dict(line.split(':\\t', 1) for line in lines if ':\\t' in line)
    limit = lambda name: resource.getrlimit(getattr(resource, 'RLIMIT_' + name))
    return {
        'environ': dict(os.environ), 'cwd': os.getcwd(), 'path': sys.path[0], 'argv': sys.argv,
        'uid': os.getresuid(), 'gid': os.getresgid(), 'groups': os.getgroups(),
        'sid': os.getsid(0) == os.getpid(), 'umask': status['Umask'], 'nnp': status['NoNewPrivs'],
        'caps': [status[name] for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb')],
        'nofile': limit('NOFILE'), 'core': limit('CORE'), 'fsize': limit('FSIZE'),
        'oom': open('/proc/self/oom_score_adj').read().strip(),
        'main': hasattr(sys.modules['__main__'], '__file__'),
        'ours': [name for name in sys.modules if name.startswith('qinling')],
    }
"""
    )
    seen = worker.execute().output
    assert set(seen["environ"]) <= {
        "HOME", "USER", "LOGNAME", "PATH", "LANG", "PYTHONUNBUFFERED", "GFORTRAN_UNBUFFERED_PRECONNECTED", "TMPDIR",
        "OPENBLAS_NUM_THREADS",
    }  # fmt: skip
    assert seen["environ"]["USER"] == seen["environ"]["LOGNAME"] == "function"
    assert seen["environ"]["HOME"] == seen["environ"]["TMPDIR"] == str(worker.scratch)
    assert seen["cwd"] == seen["path"] == str(worker.code_dir)
    uid = os.getuid() if worker.uid is None else worker.uid
    assert seen["uid"] == [uid] * 3
    if worker.uid is not None:
        assert seen["gid"] == [worker.uid] * 3
        assert seen["groups"] == []
    assert seen["caps"] == ["0" * 16] * 4
    assert (seen["nnp"], seen["sid"], seen["umask"], seen["oom"]) == ("1", True, "0022", "1000")
    assert (seen["nofile"], seen["core"], seen["fsize"]) == ([256, 256], [1, 1], [8 << 20, 8 << 20])
    assert (seen["argv"], seen["main"], seen["ours"]) == ([""], False, [])
