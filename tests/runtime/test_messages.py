"""The messages for callers when a call fails: they say what happened, and list the available names."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.runtime.client import MIB, OUT_OF_RESOURCES, Worker, wait_until
from tests.runtime.conftest import MakeWorker
from tests.runtime.messages import FINE, failure, not_loaded

# Exceptions


@pytest.mark.parametrize(
    ("body", "output", "message"),
    [
        ("1 / 0", "division by zero", "The function raised ZeroDivisionError: division by zero (main.py, line 2)."),
        ("{}['name']", "'name'", "The function raised KeyError: 'name' (main.py, line 2)."),
        ("raise ValueError", "ValueError", "The function raised ValueError (main.py, line 2)."),
        ("raise SystemExit(3)", "3", "The function raised SystemExit: 3 (main.py, line 2)."),
        ("raise ValueError('a\\0b')", "a\0b", "The function raised ValueError: a\\x00b (main.py, line 2)."),
        ("import json; json.loads('{')", None, "The function raised JSONDecodeError: Expecting property name"),
        ("main()", None, "The function raised RecursionError: maximum recursion depth exceeded"),
        ("raise type('Odd\\nName', (Exception,), {})('x')", "x", "The function raised Odd\nName: x (main.py, line 2)."),
    ],
)
def test_an_exception_has_its_text_as_output_and_its_type_and_place_beside_it(
    worker: Worker, body: str, output: str | None, message: str
) -> None:
    answer = failure(worker, f"def main():\n    {body}\n")
    assert answer.reason == "exception"
    assert answer.message is not None
    assert answer.message.startswith(message)
    if output is not None:
        assert (answer.output, answer.message) == (output, message)


def test_a_huge_exception_is_no_huge_message(worker: Worker) -> None:
    answer = failure(worker, "def main():\n    raise type('E' * 100_000, (Exception,), {})('x' * 100_000)\n")
    assert answer.message is not None
    assert len(answer.message) <= 2000


def test_a_forged_message_is_bounded(worker: Worker) -> None:
    answer = failure(
        worker,
        """
import os, socket, struct, time
def main():
    payload = b'm' * 500_000 + bytes(1) + b'text'
    for fd in range(3, 64):
        try: socket.socket(fileno=os.dup(fd)).sendall(struct.pack('!IBd', len(payload), 4, 0.0) + payload)
        except OSError: pass
    time.sleep(60)
""",
    )
    assert (answer.reason, answer.output, answer.message) == ("exception", "text", "m" * 2000)


@pytest.mark.parametrize(
    "code",
    [
        "def main(name): pass\n",
        "async def main(name): pass\n",
        "class main:\n    def __init__(self, name): pass\n",
    ],
    ids=["function", "coroutine", "class"],
)
@pytest.mark.parametrize(("given", "said"), [('{"nme": 1}', "'nme'"), (None, "'name'")])
def test_an_input_that_the_function_does_not_take_says_how_inputs_are_passed(
    worker: Worker, code: str, given: str | None, said: str
) -> None:
    answer = failure(worker, code, given)
    assert answer.message is not None
    assert answer.message.startswith("The function can't be called with this input. TypeError: main")
    assert said in answer.message
    assert "keyword arguments" in answer.message
    assert answer.output in answer.message


def test_a_type_error_inside_the_function_is_an_exception_like_others(worker: Worker) -> None:
    answer = failure(worker, "def other(name): pass\ndef main():\n    other(x=1)\n")
    assert answer.message is not None
    assert answer.message.startswith("The function raised TypeError: other() ")
    assert answer.message.endswith("(main.py, line 3).")


def test_an_exception_that_lies_about_itself_gets_a_message(worker: Worker) -> None:
    answer = failure(
        worker,
        "class Meta(type):\n    __name__ = property(lambda kind: 1 / 0)\n    def __getattribute__(kind, name): 1 / 0\n"
        "class Bad(Exception, metaclass=Meta):\n    def __str__(self): 1 / 0\n"
        "def main(): raise Bad\n",
    )
    assert answer.output == "Bad (its text can't be made: its __str__ raised)"
    assert answer.message == f"The function raised {answer.output} (main.py, line 6)."


# Limits and ends


def test_a_timeout_names_the_limit(worker: Worker) -> None:
    worker.load("import time\ndef main(): time.sleep(60)\n")
    answer = worker.execute(timeout_s=1)
    assert (answer.reason, answer.output) == ("timeout", "Function execution timeout")
    assert answer.message == "The function ran longer than its timeout of 1 s."
    assert worker.execute(timeout_s=0.25).message == "The function ran longer than its timeout of 0.25 s."


@pytest.mark.parametrize(
    ("code", "when"), [("def main(): {}\n", ""), ("{}\n" + FINE, ", while its module was imported")]
)
def test_too_much_memory_names_the_limit(worker: Worker, code: str, when: str) -> None:
    worker.load(code.format("x = b'x' * 100_000_000"), memory_size=48 * MIB)
    answer = worker.execute()
    assert (answer.reason, answer.output) == ("memory", OUT_OF_RESOURCES)
    limit = "50331648 bytes (48 MiB)"
    assert answer.message == f"The function used more than its memory_size of {limit}{when}."


def test_a_memory_error_that_the_import_raises_is_an_exception_like_others(worker: Worker) -> None:
    assert (
        not_loaded(worker, "raise MemoryError('no room')\n", "main.main") == "MemoryError: no room (main.py, line 1)."
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(0)", "ended by itself with exit status 0, as by os._exit."),
        ("os._exit(3)", "ended by itself with exit status 3, as by os._exit."),
        ("import threading; threading.Thread(target=os._exit, args=(7,)).start(); time.sleep(60)", "exit status 7"),
        ("os.abort()", "was ended by signal 6 (SIGABRT)."),
        ("import ctypes; ctypes.string_at(0)", "was ended by signal 11 (SIGSEGV)."),
        ("os.kill(os.getpid(), 9)", "was ended by signal 9 (SIGKILL)."),
        ("import signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)", "was ended by signal 37."),
        ("if os.fork(): os._exit(5)\n    time.sleep(60)", "exit status 5"),
        ("os.closerange(3, 256)\n    time.sleep(60)", "has closed or corrupted its connection to the worker"),
        ("os.closerange(3, 256)", "has closed or corrupted its connection to the worker"),
        ("os.closerange(3, 256)\n    raise ValueError('no')", "has closed or corrupted its connection to the worker"),
    ],
    ids=[
        "exit", "exit status", "thread", "abort", "segfault", "kill", "real-time", "daemonize", "close channel",
        "close channel and return", "close channel and raise",
    ],
)  # fmt: skip
@pytest.mark.parametrize("loading", [False, True])
def test_a_process_that_ended_says_how(worker: Worker, body: str, said: str, loading: bool) -> None:
    begin = "import os, time\ndef main():\n    "
    worker.load(begin + body + ("\nmain()\n" if loading else "\n"))
    for _ in range(3):
        answer = worker.execute()
        assert answer.message is not None
        assert said in answer.message
        if loading:
            assert (answer.reason, answer.output) == ("load", answer.message)
            assert answer.message.startswith("Function 'main.main' can't be loaded. While its module was imported, its")
        else:
            assert (answer.reason, answer.output) == ("exited", OUT_OF_RESOURCES)
            assert answer.message.startswith("The function's process ")


def test_a_kill_by_the_kernel_for_want_of_memory_names_the_limit(make_worker: MakeWorker, tmp_path: Path) -> None:
    """A fake for the control group's file, because this test can't make the kernel kill at the right moment."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 4\noom_kill 4\n")
    with events.open() as file:
        worker = make_worker(memory_fds={"events": file.fileno()})
    worker.load(
        "import os, time\ndef main(path):\n"
        "    with open(path, 'w') as file: file.write(str(os.getpid()))\n    os.rename(path, path + '.pid')\n"
        "    time.sleep(60)\n"
    )
    began = worker.scratch / "began.pid"
    for killed, reason in ((4, "exited"), (5, "memory"), (5, "exited")):
        with worker.executing(str(began.with_suffix("")), timeout_s=30) as wait_for_answer:
            wait_until(began.exists)
            events.write_text(f"low 0\noom 4\noom_kill {killed}\n")
            os.kill(int(began.read_text()), signal.SIGKILL)
            answer = wait_for_answer()
        assert (answer.reason, answer.output) == (reason, OUT_OF_RESOURCES)
        assert answer.message is not None
        assert ("memory_size of 33554432 bytes (32 MiB)" in answer.message) == (reason == "memory")


def test_a_cancelled_call_says_so(worker: Worker) -> None:
    worker.load("import time\ndef main(): time.sleep(60)\n")
    with worker.executing() as answer:
        while worker.request("POST", "/cancel", b'{"execution_id": "e1"}')[0] == 404:
            time.sleep(0.01)
        assert answer().message == "The execution was cancelled."


# Results


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("datetime.datetime.now()", "result is of type datetime. Return only dicts, lists, text, "),
        ("{'items': [0, 1, 2, {'when': datetime.datetime.now()}]}", "result.items[3].when is of type datetime. "),
        ("[{'tags': {1, 2}}]", "result[0].tags is of type set. "),
        ("{'data': b'x'}", "result.data is of type bytes. "),
        ("((1, (2, object())),)", "result[0][1][1] is of type object. "),
        (
            "{'my key': {'größe': {'1': {2: {None: {1.5: open}}}}}}",
            'result["my key"].größe["1"][2][None][1.5] is of type',
        ),
        ("{'k' * 10_000: open}", 'result["' + "k" * 40 + '"...] is of type builtin_function_or_method. '),
        ("{'ä\"\\n\\ud800': open}", 'result["\\u00e4\\"\\n\\ud800"] is of type'),
        ("{'a': float('nan')}", "result.a is nan, a number that JSON doesn't have."),
        ("[1.0, -float('inf')]", "result[1] is -inf, a number that JSON doesn't have."),
        ("[10 ** 5000]", "result[0] is a whole number with too many digits."),
        ("{'a': {(1, 2): 3}}", "result.a has a key that is of type tuple: keys must be text."),
        ("{'a': {float('nan'): 3}}", "result.a has a key that is nan, a number that JSON doesn't have."),
        ("{'a': {'b': 'x\\udc00'}}", "result.a.b holds half a character (a lone surrogate)."),
        ("{'a': {'x\\udc00': 1}}", "result.a holds half a character (a lone surrogate)."),
        ("loop", "result.a[1] refers back to result, which it is in: a circular reference."),
        ("[loop]", "result[0].a[1] refers back to result[0], which it is in: a circular reference."),
        ("deep", "result" + "[0]" * 12 + " ... " + "[0]" * 12 + " is nested too deeply, in "),
        ("{'a': Raising(a=1)}", "result.a, of type Raising, can't be read: SystemExit: ha."),
        ("{'a': Lying(a=1)}", "result.a[...] is of type object. "),
        ("{'a': Hidden()}", "result.a is of type Hidden. "),
        ("{'a': (n for n in [1])}", "result.a is of type generator. "),
        ("[waiting()]", "result[0] is of type coroutine. Await it, in a function that is async def."),
    ],
)
def test_a_result_that_is_not_json_names_the_path(worker: Worker, value: str, said: str) -> None:
    answer = failure(
        worker,
        "import datetime\n"
        "class Raising(dict):\n    def items(self): raise SystemExit('ha')\n"
        "class Lying(dict):\n    def items(self): return [('b', object())]\n"
        "class Hidden:\n"
        "    __class__ = property(lambda self: 1 / 0)\n"
        "    def __repr__(self): 1 / 0\n"
        "    def __getattribute__(self, name): 1 / 0\n"
        "    def __eq__(self, other): 1 / 0\n"
        "async def waiting(): pass\n"
        "loop = {}\nloop['a'] = [1, loop]\n"
        "deep = []\nfor _ in range(5000): deep = [deep]\n"
        f"def main(): return {value}\n",
    )
    assert (answer.reason, answer.message) == ("result", answer.output)
    assert answer.output.startswith(f"The result can't be JSON: {said}")


def test_the_path_of_a_large_result_is_found_in_bounded_time(worker: Worker) -> None:
    code = "def main(odd):\n    texts = ['x'] * 900_000\n    texts[800_000] = eval(odd)\n    return {'a': texts}\n"
    worker.load(code, memory_size=256 * MIB)
    assert worker.execute("{1}").output.startswith("The result can't be JSON: result.a[800000] is of type set.")
    answer = worker.execute("'\\ud800'")
    assert answer.output.startswith("The result can't be JSON: result... holds half a character")


def test_a_failure_of_the_encoder_is_forgotten(worker: Worker) -> None:
    worker.load("value = [1]\ndef main(odd=None): return {'a': value, 'b': eval(odd or 'value')}\n")
    assert worker.execute("{1}").reason == "result"
    for _ in range(2):
        assert worker.execute().output == {"a": [1], "b": [1]}
