"""Functions that misbehave: each call gets its clear answer, and the next call of the same function works.

Every function here does its harm when its input names it, and else answers 'fine'.
"""

from __future__ import annotations

import json
import os
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.client import MIB, OUT_OF_RESOURCES, SECRET, Answer, Worker, wait_until
from tests.runtime.conftest import MakeWorker, by_isolation
from tests.support.forks import FORK_AND_WAIT

Harm = Callable[..., Answer]


@pytest.fixture
def harm(make_worker: MakeWorker) -> Harm:
    """Runs one hostile function body, once, then the harmless branch of the same function in the same worker."""

    def run(
        body: str, before: str = "", timeout_s: float = 10, memory_size: int = 32 * MIB, **config: object
    ) -> Answer:
        worker = make_worker(**config)
        lines = "\n".join("        " + line for line in body.strip("\n").splitlines())
        source = f"{before}\ndef main(do='nothing', **kwargs):\n    if do == 'harm':\n{lines}\n    return 'fine'\n"
        assert worker.load(source, memory_size=memory_size)[0] == 200
        assert worker.execute().output == "fine"
        answer = worker.execute('{"do": "harm"}', timeout_s=timeout_s)
        for _ in range(2):
            after = worker.execute()
            assert (after.status, after.output, after.printed) == ("success", "fine", "")
        assert worker.process.poll() is None
        return answer

    return run


def forging(kind: int, payload: bytes) -> str:
    """Code that sends a frame to the supervisor in the name of the child's loop."""
    return f"""
import os, socket, struct, time
payload = {payload!r}
for fd in range(3, 256):
    try: socket.socket(fileno=os.dup(fd)).sendall(struct.pack('!IBd', len(payload), {kind}, 0.0) + payload)
    except OSError: pass
time.sleep(60)
"""


def assert_failed(answer: Answer, reason: str, output: str) -> None:
    assert (answer.status, answer.reason, answer.output) == ("failed", reason, output)


# Time


@by_isolation
@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import signal, time\n[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\ntime.sleep(60)",
        "'a' * 40 == __import__('re').match('(a+)+b', 'a' * 40)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\nwhile True: time.sleep(1)",
        "class Slow(Exception):\n    def __str__(self):\n        while True: pass\nraise Slow",
        "class Slow(dict):\n    def items(self):\n        while True: pass\nreturn Slow(a=1)",
    ],
    ids=["loop", "sleep", "deaf", "in C", "stopped", "forked away", "slow text", "slow result"],
)
def test_a_timeout_ends_it(harm: Harm, body: str) -> None:
    answer = harm(body, timeout_s=0.4)
    assert_failed(answer, "timeout", "Function execution timeout")
    assert answer.duration >= 0.4


@by_isolation
def test_nothing_of_the_tree_is_left_after_a_timeout(worker: Worker, isolation: str) -> None:
    worker.load(
        "import os, subprocess, time\n"
        "def main(do=None):\n"
        "    if do:\n"
        "        for _ in range(3):\n"
        "            subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "            if os.fork() == 0:\n"
        "                os.setsid()\n"
        "                if os.fork() == 0: time.sleep(600)\n"
        "                os._exit(0)\n"
        "        open(os.path.join(do, 'began'), 'w').close()\n"
        "        time.sleep(60)\n"
        "    return os.getpid()\n"
    )
    worker.execute()
    before = worker.processes()
    assert worker.execute(json.dumps({"do": str(worker.scratch)}), timeout_s=1.5).reason == "timeout"
    assert os.listdir(worker.scratch) == []
    assert worker.execute().output not in before
    # The template and the new child. With isolation by call, two: the loaded one, and the one of the next call.
    wait_until(lambda: len(worker.processes()) == (2 if isolation == "warm" else 3))


def test_a_process_that_is_always_another_one_is_ended(worker: Worker) -> None:
    worker.load(
        "import os, time\ndef main(path=None):\n"
        "    if path and os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while not os.path.exists(path + '/end'):\n"
        "            with open(path + '/beats', 'a') as file: file.write('x')\n"
        "            if os.fork(): os._exit(0)\n"
        "        os._exit(0)\n"
        "    while path: time.sleep(1)\n    return 'fine'\n"
    )
    folder = worker.make_open_folder()
    assert worker.execute(str(folder), timeout_s=0.5).reason == "timeout"
    try:
        size = (folder / "beats").stat().st_size
        assert worker.execute().output == "fine"
        assert (folder / "beats").stat().st_size == size
    finally:
        (folder / "end").touch()


# Processes that end


@by_isolation
@pytest.mark.parametrize(
    "body",
    [
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "import ctypes; ctypes.string_at(0)",
        "import os\nif os.fork(): os._exit(0)\nimport time; time.sleep(60)",
        "import os; os.closerange(3, 256)",
        "import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'garbage' * 10)\n    except OSError: pass\n"
        "import time; time.sleep(5)",
    ],
    ids=["exit", "kill", "abort", "segfault", "daemonize", "close channel", "spoil channel"],
)
def test_a_process_that_died_is_said_so(harm: Harm, body: str) -> None:
    assert_failed(harm(body), "exited", OUT_OF_RESOURCES)


@pytest.mark.parametrize("name", ["VmHWM:", "VmHWM:z", "VmHWM:\t-1", "VmHWM:\t9999999", "a) Z 1 (b", "x\ny", "Uid:\t0"])
def test_a_process_may_have_any_name(worker: Worker, name: str) -> None:
    worker.load(
        "import ctypes, os, time\ndef main(name, leave=False):\n"
        "    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)\n"
        "    if leave and os.fork() == 0: time.sleep(60)\n"
        "    time.sleep(0.05)\n    if leave: os._exit(1)\n    return name\n"
    )
    assert worker.execute(json.dumps({"name": name})).output == name
    assert worker.execute(json.dumps({"name": name, "leave": True})).reason == "exited"
    assert len(worker.processes()) <= 2  # the template and the next child
    assert worker.execute(json.dumps({"name": name})).output == name


@by_isolation
def test_what_was_printed_before_the_end_is_kept(harm: Harm) -> None:
    assert harm("import os; print('last words'); os._exit(1)").printed == "last words\n"


@by_isolation
def test_sys_exit_and_interrupts_are_exceptions(harm: Harm) -> None:
    assert_failed(harm("import sys; sys.exit('bye')"), "exception", "bye")
    assert_failed(harm("raise KeyboardInterrupt('stop')"), "exception", "stop")
    assert_failed(harm("raise GeneratorExit"), "exception", "GeneratorExit")
    assert_failed(harm("raise MemoryError('no room')"), "exception", "no room")


@by_isolation
def test_a_fork_bomb_is_gone(harm: Harm, child_uid: int | None) -> None:
    if child_uid is None and os.geteuid() == 0:
        pytest.skip("root itself is not limited: the bomb would take the host's processes")
    body = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
    answer = harm(body, timeout_s=1)
    assert answer.status == "failed"
    assert answer.reason in ("timeout", "memory")


def test_killing_others_does_not_end_the_worker(make_worker: MakeWorker, child_uid: int | None) -> None:
    if child_uid is None:
        pytest.skip("with one uid the whole worker dies, and its orchestrator replaces it")
    for body in ("os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(given, 9)"):
        worker = make_worker()
        worker.load(f"import os\ndef main(given=0):\n    if given:\n        {body}\n    return 'fine'\n")
        worker.execute()
        answer = worker.execute(json.dumps({"given": worker.process.pid}))
        assert answer.status == "success" or (answer.reason, answer.output[:8]) == ("exception", "[Errno 1")
        assert worker.execute().output == "fine"
        assert worker.process.poll() is None


@by_isolation
def test_a_function_that_returns_twice_answers_once(harm: Harm) -> None:
    answer = harm("import os\nos.fork()\nreturn 'returned'")
    assert (answer.status, answer.output) == ("success", "returned")
    answer = harm("import os\nif os.fork() == 0: raise ValueError('copy')\nos.wait()\nreturn 'returned'")
    assert (answer.status, answer.output, answer.printed) == ("success", "returned", "")
    odd = "class Odd(dict):\n    def items(self):\n        if os.fork(): os.wait()\n        return [('a', 1)]\n"
    answer = harm("import os\n" + odd + "return Odd(a=1)")
    assert (answer.status, answer.output) == ("success", {"a": 1})


@by_isolation
def test_a_module_that_forks_at_its_import_is_there_once(worker: Worker, isolation: str) -> None:
    count = "calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n"
    worker.load("import os\nfor _ in range(3): os.fork()\n" + count)
    counts = [1, 2, 3, 4, 5] if isolation == "warm" else [1] * 5
    assert worker.outputs(5) == counts


@by_isolation
def test_a_process_that_ends_after_its_answer_harms_no_call(worker: Worker) -> None:
    runs = worker.make_open_folder() / "runs"
    worker.load(
        "import os, threading\ndef main(delay):\n"
        f"    with open({str(runs)!r}, 'a') as file: file.write('run\\n')\n"
        "    threading.Timer(float(delay), os._exit, [0]).start()\n    return os.getpid()\n"
    )
    calls = 0
    for delay in ("0.1", "0.02", "0.004", "0.002", "0.001", "0"):
        answer = worker.execute(delay)
        assert answer.status == "success" or answer.reason == "exited"
        following = worker.execute("60")
        assert following.status == "success" or following.reason == "exited"
        if answer.status == "success":
            wait_until(lambda pid=answer.output: pid not in worker.processes())
        assert worker.execute("60").status == "success"
        calls += 3
    assert len(runs.read_text().splitlines()) == calls


def test_a_call_that_was_sent_to_a_dead_child_runs_in_the_next_one(worker: Worker) -> None:
    worker.load("import os\ndef main(): return os.getpid()\n")
    old = worker.execute().output
    answer = worker.execute_in_killed(old)
    assert answer.status == "success"
    assert answer.output != old


def test_background_processes_live_until_their_child_is_replaced(worker: Worker) -> None:
    worker.load(
        "import subprocess, os\ndef main(do='spawn'):\n    if do == 'die': os._exit(1)\n"
        "    subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    )
    assert worker.execute().status == "success"
    assert worker.execute().status == "success"
    assert len(worker.processes()) == 4
    assert worker.execute('{"do": "die"}').reason == "exited"
    assert len(worker.processes()) <= 2


# Memory and files


@by_isolation
@pytest.mark.parametrize(
    "body",
    [
        "data = bytearray(200_000_000)\nimport time; time.sleep(20)",
        "data = bytearray(60_000_000)\nfor i in range(0, len(data), 4096): data[i] = 1",
        "data = []\nwhile True: data.append(' ' * 1000000)",
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        data = b'x' * 15_000_000\n"
        "        time.sleep(20)\n"
        "time.sleep(20)",
    ],
    ids=["at once", "briefly", "step by step", "by many"],
)
def test_more_memory_than_allowed_is_a_failure(harm: Harm, body: str) -> None:
    assert_failed(harm(body), "memory", OUT_OF_RESOURCES)


@by_isolation
def test_memory_within_the_limit_is_fine(harm: Harm) -> None:
    assert harm("data = b'x' * 20_000_000\nreturn len(data)").output == 20_000_000
    assert harm("data = b'x' * 90_000_000\nreturn len(data)", memory_size=128 * MIB).output == 90_000_000


def test_address_space_that_is_not_touched_is_no_memory(harm: Harm) -> None:
    assert harm("data = bytes(3_000_000_000)\nreturn len(data)").output == 3_000_000_000
    many = """
import threading
gate = threading.Barrier(13)
threads = [threading.Thread(target=gate.wait) for _ in range(12)]
for thread in threads: thread.start()
gate.wait()
for thread in threads: thread.join()
"""
    assert harm(many).status == "success"


def test_pages_that_processes_share_count_once(harm: Harm, child_uid: int | None) -> None:
    if child_uid is not None:
        pytest.skip("another uid's shares can't be read")
    before = f"{FORK_AND_WAIT}data = b'x' * 20_000_000"
    assert harm("return fork_and_wait(6)", before).output == [0] * 6


def test_pages_that_processes_do_not_share_count_each(harm: Harm) -> None:
    before = (
        f"{FORK_AND_WAIT}data = b'x' * 10_000_000\n"
        "def take_more():\n    more = b'y' * 10_000_000\n    time.sleep(5)\n"
    )
    assert_failed(harm("return fork_and_wait(6, take_more)", before), "memory", OUT_OF_RESOURCES)


def test_a_large_file_is_an_exception(harm: Harm) -> None:
    path = Path(f"/tmp/qf-too-large-{uuid.uuid4()}")
    answer = harm(f"with open('{path}', 'wb') as file:\n    for _ in range(20): file.write(b'x' * 1000000)")
    path.unlink()
    assert answer.reason == "exception"
    assert "File too large" in answer.output


@by_isolation
def test_many_processes_are_an_exception(harm: Harm, child_uid: int | None) -> None:
    if child_uid is None and os.geteuid() == 0:
        pytest.skip("root itself is not limited")
    answer = harm("import subprocess\nreturn len([subprocess.Popen(['sleep', '60']) for _ in range(200)])")
    assert answer.reason == "exception"
    assert "unavailable" in answer.output


def test_a_full_scratch_folder_is_empty_for_the_next_call(make_worker: MakeWorker, small_disk: Path) -> None:
    worker = make_worker(scratch_dirs=[str(small_disk)])
    worker.load(
        "import os\ndef main(path, size='0'):\n    seen = os.listdir(path)\n"
        "    with open(path + '/' + str(len(seen)), 'wb') as file: file.write(b'x' * int(size))\n    return seen\n"
    )
    fill = {"path": str(small_disk), "size": str(6 * MIB)}
    answer = worker.execute(json.dumps(fill))
    assert answer.reason == "exception"
    assert "No space left" in answer.output
    assert worker.execute(json.dumps(fill | {"size": str(3900 << 10)})).output == []
    assert worker.execute(str(small_disk)).output == []
    assert worker.execute(str(small_disk)).output == ["0"]  # what is small stays, as module state does


@by_isolation
def test_locked_and_deep_folders_are_emptied(worker: Worker) -> None:
    worker.load(
        "import os\ndef main(path=None):\n    if path:\n        os.chdir(path)\n"
        "        os.symlink('/etc', 'link'); os.mkfifo('fifo'); open('file', 'w').close(); os.chmod('file', 0)\n"
        "        os.makedirs('locked/inner'); os.chmod('locked/inner', 0); os.chmod('locked', 0)\n"
        "        for _ in range(30):\n            os.mkdir('d' * 200); os.chdir('d' * 200)\n"
        "        open('x', 'w').close(); os._exit(1)\n    return 'fine'\n"
    )
    assert worker.execute(str(worker.scratch)).reason == "exited"
    assert os.listdir(worker.scratch) == []
    assert Path("/etc/passwd").exists()
    assert worker.execute().output == "fine"


# Output


def test_a_flood_of_output_is_cut(harm: Harm) -> None:
    body = "chunk = 'x' * 65535 + '\\n'\nfor _ in range(16384): print(chunk, end='')\nreturn 'printed'"
    answer = harm(body, timeout_s=60)
    assert (answer.status, answer.output) == ("success", "printed")
    assert len(answer.log) < 70_000
    cut = answer.printed.splitlines()[-1]
    assert cut == f"--- log cut: {(1 << 30) - 64 * 1024} more bytes were printed ---"


@by_isolation
def test_everything_that_is_printed_is_in_the_log(harm: Harm) -> None:
    body = """
import os, subprocess, sys
print('one', flush=False)
sys.stderr.write('two\\n')
os.write(1, b'three \\xff\\x00\\n')
os.system('echo four')
sys.stdout.buffer.write(b'five\\n')
subprocess.run(['sh', '-c', 'echo six >&2'])
print('seven \\ud800', end='')
"""
    printed = "one\ntwo\nthree \ufffd\ufffd\nfour\nfive\nsix\nseven \\ud800\n"
    assert harm(body).printed == printed


def test_what_background_processes_print_between_calls_is_dropped(worker: Worker) -> None:
    worker.load(
        "import os, subprocess\ndef main(path):\n"
        "    if not os.path.exists(path):\n"
        "        wait = f'while [ ! -e {path} ]; do sleep .01; done; echo late; touch {path}.printed'\n"
        "        subprocess.Popen(['sh', '-c', wait])\n"
    )
    path = worker.scratch / "go"
    assert worker.execute(str(path)).printed == ""
    path.touch()
    wait_until((worker.scratch / "go.printed").exists)
    worker.request("GET", "/ping")
    assert worker.execute(str(path)).printed == ""


# Results


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return object()", "object"),
        ("return {1, 2}", "set"),
        ("return float('nan')", "nan"),
        ("return {'a': [float('inf')]}", "inf"),
        ("return {(1, 2): 3}", "keys must be"),
        ("value = []\nvalue.append(value)\nreturn value", "circular"),
        ("value = []\nfor _ in range(5000): value = [value]\nreturn value", "too deeply"),
        ("return 10 ** 5000", "too many digits"),
        ("return 'half \\ud800'", "surrogate"),
        ("return (n for n in range(3))", "generator"),
        ("class Odd(dict):\n    def items(self): raise SystemExit('ha')\nreturn Odd(a=1)", "ha"),
    ],
)
def test_a_result_that_is_not_json_is_a_failure(harm: Harm, body: str, said: str) -> None:
    answer = harm(body)
    assert (answer.status, answer.reason) == ("failed", "result")
    assert answer.output.startswith("The result can't be JSON: ")
    assert said in answer.output


def test_a_result_that_is_too_large_is_a_failure(harm: Harm) -> None:
    answer = harm("return 'x' * 50_000_000", memory_size=512 * MIB)
    assert_failed(answer, "result", f"The result is too large: 50000002 bytes of JSON, and at most {MIB} are allowed.")


@by_isolation
@pytest.mark.parametrize("size", [MIB + 1000, 3 * MIB])
def test_a_forged_answer_is_bounded_too(harm: Harm, size: int) -> None:
    assert_failed(harm(forging(3, b'"' + b"x" * size + b'"')), "exited", OUT_OF_RESOURCES)


@pytest.mark.parametrize(
    "payload",
    [
        "garbage", "", " ", "1}, {", '1, "duration": 0', "NaN", "-Infinity", "1e999", "[-1.5e400]", '"cut', "[1,]",
        "'text'", '"\t"', "1 2",
    ],
)  # fmt: skip
def test_a_forged_answer_that_is_not_json_is_no_result(harm: Harm, payload: str) -> None:
    assert harm(forging(3, payload.encode())).reason == "exited"


def test_a_forged_answer_is_checked_in_bounded_time_and_depth(make_worker: MakeWorker) -> None:
    worker = make_worker()
    longs = (b"1" * 1_000_000, b"1." + b"1" * 1_000_000)
    for payload, allowed in (*((long, {None}) for long in longs), (b"[" * 100_000, {"result", "exited"})):
        worker.load(f"def main():\n{textwrap.indent(forging(3, payload), '    ')}")
        assert worker.request("POST", "/execute", worker.execution(timeout_s=5))[1]["reason"] in allowed
        assert worker.process.poll() is None
        worker = make_worker()


def test_a_result_that_is_too_deep_for_the_worker_is_a_failure(worker: Worker) -> None:
    worker.load(
        "import sys\ndef main():\n    sys.setrecursionlimit(20_000)\n    value = []\n"
        "    for _ in range(9000): value = [value]\n    return value\n"
    )
    status, answer = worker.request("POST", "/execute", worker.execution())
    assert (status, answer["reason"] in (None, "result")) == (200, True)
    assert worker.process.poll() is None


def test_forged_messages_hold_no_nul(worker: Worker) -> None:
    worker.load(forging(2, b"one\0two") + "def main(): pass\n")
    answer = worker.execute()
    assert (answer.reason, answer.message) == ("load", "one\N{REPLACEMENT CHARACTER}two")


@pytest.mark.parametrize("payload", [b"9" * 5000, b"x", b"90000000"])
def test_a_forged_baseline_is_refused(worker: Worker, payload: bytes) -> None:
    worker.load(forging(0, payload) + "def main(): pass\n")
    assert worker.execute().reason == "load"
    assert worker.process.poll() is None


@pytest.mark.parametrize("value", ["None", "True", "0", "-1.5e300", "''", "'ä \\U0001f600 \\0 \"'", "[]", "{'a': {}}"])
def test_every_json_value_is_a_result(harm: Harm, value: str) -> None:
    assert harm(f"return {value}").output == eval(value)


# Exceptions


def test_an_exception_has_its_text_and_its_traceback(harm: Harm) -> None:
    answer = harm("raise ValueError('that is wrong')")
    assert_failed(answer, "exception", "that is wrong")
    assert "main.py" in answer.printed
    assert "qinling" not in answer.printed
    assert answer.printed.endswith("ValueError: that is wrong\n")


def test_a_huge_message_is_cut(harm: Harm) -> None:
    answer = harm("raise ValueError('x' * 3_000_000)")
    assert answer.reason == "exception"
    assert answer.output.startswith("xxxx")
    assert answer.output.endswith("(3000000 characters in all)")
    assert len(answer.output) < 20_000
    assert len(answer.log) < 20_000


def test_odd_exceptions_get_an_answer(harm: Harm) -> None:
    answer = harm("class Bad(Exception):\n    def __str__(self): raise SystemExit\nraise Bad")
    assert (answer.reason, answer.output) == ("exception", "Bad (its text can't be made: its __str__ raised)")
    assert harm("raise ValueError('\\ud800')").output == "\\ud800"
    assert harm("raise ValueError").output == "ValueError"
    assert harm("main(do='harm')").output.startswith("maximum recursion depth exceeded")
    assert harm("raise ExceptionGroup('several', [ValueError(1)])").output.startswith("several")


# Patches


@pytest.mark.parametrize(
    "before",
    [
        "import json; json.dumps = json.loads = json.JSONEncoder = json.JSONDecoder = None",
        "import json.encoder, json.decoder; json.encoder.c_make_encoder = json.decoder.JSONDecoder.decode = None",
        "import builtins\nfor n in ('len', 'isinstance', 'type', 'str', 'dict', 'BaseException', 'max', 'Exception'):"
        " setattr(builtins, n, 0)",
        "import os; os.read = os.write = os.getpid = os._exit = None",
        "import struct, socket, time, traceback, importlib, inspect\n"
        "for m in (struct, socket, time, traceback, importlib, inspect):\n"
        "    for n in list(vars(m)):\n        if n[0] != '_': setattr(m, n, None)",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import gc; gc.disable()",
        "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
    ],
)
def test_patches_reach_the_loop_as_little_as_may_be(harm: Harm, before: str) -> None:
    answer = harm("return {'a': [1, 'b', None]}", before=before)
    assert (answer.status, answer.output) == ("success", {"a": [1, "b", None]})
    assert_failed(harm("raise ValueError('text')", before="ValueError = ValueError\n" + before), "exception", "text")


# Loading


@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("def main(:\n", "main.main", "SyntaxError"),
        ("x = 1\n", "main.main", "no function 'main'"),
        ("main = 3\n", "main.main", "is not a function"),
        ("def main(): pass\n", "other.main", "There is no module 'other'"),
        ("def main(): pass\n", "main", "module.function"),
        ("import nothing_of_that_name\n", "main.main", "nothing_of_that_name"),
        ("raise SystemExit('no')\n", "main.main", "SystemExit: no"),
        ("import os; os._exit(0)\n", "main.main", "exit status 0"),
        ("import os\nos.fork()\nraise ValueError('both')\n", "main.main", "both"),
    ],
)
def test_a_function_that_cannot_be_loaded_says_why(worker: Worker, code: str, entry: str, said: str) -> None:
    assert worker.load("print('loading')\n" * ("def main(:" not in code) + code, entry=entry)[0] == 200
    for _ in range(3):
        answer = worker.execute()
        assert (answer.status, answer.reason) == ("failed", "load")
        assert said in answer.output
        if "def main(:" not in code and entry != "other.main" and "." in entry:
            assert answer.printed.startswith("loading\n")


def test_an_import_that_hangs_is_ended(make_worker: MakeWorker) -> None:
    worker = make_worker(load_timeout_s=0.5)
    worker.load("print('loading')\nwhile True: pass\n")
    for _ in range(2):
        answer = worker.execute()
        said = "Function 'main.main' can't be loaded. Its module was not imported within 0.5 s."
        assert_failed(answer, "load", said)
        assert answer.printed == "loading\n"


def test_a_function_that_loads_at_the_second_try_works(worker: Worker) -> None:
    mark = worker.make_open_folder() / "mark"
    check = f"import os\nif not os.path.exists({str(mark)!r}):\n    raise OSError('away')\n"
    worker.load(check + "def main(): return 'fine'\n")
    first = worker.execute()
    assert (first.reason, "away" in first.output) == ("load", True)
    assert "OSError: away" in first.printed
    mark.touch()
    wait_until(lambda: worker.execute().output == "fine")


def test_memory_taken_by_the_import_counts(worker: Worker) -> None:
    worker.load("data = b'x' * 80_000_000\ndef main(): pass\n")
    for _ in range(2):
        assert_failed(worker.execute(), "memory", OUT_OF_RESOURCES)


# Secrets


def test_the_supervisor_cannot_be_read(worker: Worker) -> None:
    worker.load(
        """
import os
def main(pid):
    found = {}
    for who in (pid, str(os.getppid()), 'self'):
        for what in ('environ', 'mem', 'maps', 'cmdline', 'fd', 'cwd'):
            path = f'/proc/{who}/{what}'
            try:
                if what == 'fd': found[path] = repr([os.readlink(f'{path}/{n}') for n in os.listdir(path)])
                elif what == 'mem':
                    with open(path, 'rb', buffering=0) as file: found[path] = 'open'
                elif what == 'cwd': found[path] = os.readlink(path)
                else: found[path] = open(path, 'rb').read().decode('latin-1')
            except OSError as error: pass
    return found
"""
    )
    found = worker.execute(str(worker.process.pid)).output
    for path, content in found.items():
        assert SECRET not in content
        assert "environment-of-the-supervisor" not in content
        assert path.startswith("/proc/self/") or path.endswith("/cmdline"), path
    child = next(pid for pid in worker.processes() if pid != worker.template())
    regions = [line.split()[0] for line in Path(f"/proc/{child}/maps").read_text().splitlines() if " rw-p " in line]
    with open(f"/proc/{child}/mem", "rb", buffering=0) as memory:
        for region in regions:
            start, end = (int(part, 16) for part in region.split("-"))
            memory.seek(start)
            assert SECRET.encode() not in memory.read(end - start)


def test_code_cannot_be_changed(worker: Worker, child_uid: int | None) -> None:
    if child_uid is None:
        pytest.skip("with one uid the code belongs to the function")
    worker.load(
        {
            "main.py": "import os\ndef main():\n    done = []\n"
            "    for act in (lambda: open('main.py', 'a'), lambda: open('new', 'w'), lambda: os.unlink('main.py'),\n"
            "                lambda: os.chmod('main.py', 0o777), lambda: os.rename('sub', 'sup'),\n"
            "                lambda: os.mkdir('sub/x')):\n"
            "        try: act(); done.append(1)\n        except OSError: pass\n    return done\n",
            "sub/data": "x",
        }
    )
    assert worker.execute().output == []
