"""Functions with hostile output, results and exceptions."""

from __future__ import annotations

import textwrap

import pytest

from tests.runtime.client import MIB, OUT_OF_RESOURCES, Worker, wait_until
from tests.runtime.conftest import Harm, MakeWorker, by_isolation
from tests.runtime.hostile import assert_failed, forging

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
