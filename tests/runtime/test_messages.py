"""The messages for callers when a call fails: they say what happened, and list the available names."""

from __future__ import annotations

import io
import os
import signal
import time
import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.runtime.client import MIB, OUT_OF_RESOURCES, Answer, Worker, wait_until
from tests.runtime.conftest import MakeWorker

_FINE = "def main(): return 'fine'\n"


def failure(worker: Worker, code: object, given: str | None = None, entry: str = "main.main") -> Answer:
    """Load a function and call it once. Returns the answer, which must be a failure."""
    assert worker.load(code, entry=entry)[0] == 200  # type: ignore[arg-type]
    answer = worker.execute(given)
    assert answer.status == "failed"
    return answer


def not_loaded(worker: Worker, code: object, entry: str) -> str:
    """The reason why an entry can't be loaded. The answer's message and output must be the same."""
    answer = failure(worker, code, entry=entry)
    begin = f"Function {entry!r} can't be loaded. "
    assert (answer.reason, answer.message) == ("load", answer.output)
    assert answer.output.startswith(begin)
    return str(answer.output).removeprefix(begin)


# Entries


def test_a_missing_module_is_named_beside_what_there_is(worker: Worker) -> None:
    files = {"main.py": _FINE, "lib/tools.py": "", "__MACOSX/._main.py": "", ".DS_Store": ""}
    said = not_loaded(worker, files, "hello.main")
    there = "at its top level are: lib/, main.py."
    assert said == f"There is no module 'hello' (hello.py or hello/__init__.py) in the package; {there}"


def test_what_is_missing_is_in_the_log_without_a_traceback(worker: Worker) -> None:
    answer = failure(worker, _FINE, entry="hello.main")
    assert answer.printed.startswith("There is no module 'hello'")
    assert "Traceback" not in answer.printed


def test_a_package_of_one_folder_is_told_to_be_zipped_differently(worker: Worker) -> None:
    files = {"hello/": "", "hello/main.py": _FINE, "__MACOSX/hello/._main.py": ""}
    said = not_loaded(worker, files, "main.main")
    assert "at its top level are: hello/." in said
    advice = "All files are in the folder hello/, which has main.py: zip what is in the folder, not the folder itself."
    assert said.endswith(advice)


def test_a_package_that_was_zipped_with_its_path_is_told_so(worker: Worker) -> None:
    said = not_loaded(worker, {"home/ada/hello/main.py": _FINE, "home/ada/hello/lib.py": ""}, "main.main")
    assert "All files are in the folder home/ada/hello/, which has main.py: zip what is in the folder" in said


def test_a_module_in_another_folder_is_found(worker: Worker) -> None:
    said = not_loaded(worker, {"README": "", "src/hello.py": _FINE, "tests/x.py": ""}, "hello.main")
    assert said.endswith("at its top level are: README, src/, tests/. The folder src/ has hello.py.")


def test_a_missing_module_of_a_folder_shows_the_folder_too(worker: Worker) -> None:
    said = not_loaded(worker, {"pkg/__init__.py": "", "pkg/tools.py": "", "main.py": ""}, "pkg.mod.main")
    assert said.startswith("There is no module 'pkg.mod' (pkg/mod.py or pkg/mod/__init__.py) in the package; ")
    assert "in its folder pkg/ are: __init__.py, tools.py; at its top level are: main.py, pkg/." in said


@pytest.mark.parametrize(
    ("files", "entry", "said"),
    [
        ({"hello.py": _FINE}, "hello.py.main", "The entry names the file hello.py instead of the module: write hello."),
        (
            {"main.py": "class H:\n    def run(self): pass\n"},
            "main.H.run",
            "'main' is a module, not a folder. The entry must be module.function; a method can't be one. The package"
            " has at its top level: main.py.",
        ),
        ({"hello/main.py": _FINE}, "hello.main", "'hello.main' is a module, not a function: write the function's name"),
        ({"p/__init__.py": "from . import m", "p/m.py": _FINE}, "p.m", "such as p.m.main."),
        ({"lib/a.py": "", "main.py": ""}, "lib.run", "'lib' is a folder without a file __init__.py"),
        ({"random.py": _FINE}, "random.main", "rename random.py."),
        (
            {"hello.py": _FINE},
            "random.main",
            "'random' is a module of the standard library, and has no function 'main'; at the",
        ),
        ({"main.py": "main = 3"}, "main.main", "'main' in module 'main' is not a function; it is of type int."),
        ({"hello.py": _FINE}, "main", "The entry must be module.function, such as main.main, not 'main'."),
    ],
    ids=[
        "file",
        "method",
        "module",
        "imported module",
        "folder",
        "shadowed",
        "Python's own",
        "no function",
        "one word",
    ],
)
def test_other_entries_that_name_nothing_say_what_they_name(
    worker: Worker, files: dict[str, str | bytes], entry: str, said: str
) -> None:
    assert said in not_loaded(worker, files, entry)


@pytest.mark.parametrize(("file", "entry"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_that_unicode_composes_differently_is_told_so(worker: Worker, file: str, entry: str) -> None:
    name = unicodedata.normalize(entry, "größe")
    said = not_loaded(worker, {unicodedata.normalize(file, "größe.py"): _FINE}, f"{name}.main")
    assert "looks like the entry's" in said
    assert f"the package's name is in Unicode's {file}, the entry's in {entry}. Write both in the same form" in said


def test_an_archive_of_a_stream_says_what_to_zip(worker: Worker) -> None:
    said = not_loaded(worker, {"-": _FINE}, "main.main")
    assert said.endswith("Zip the file itself: zip out.zip main.py.")


def test_a_missing_function_is_named_beside_those_that_the_module_has(worker: Worker) -> None:
    code = "from os.path import join\ndef hello(): pass\nclass Main: pass\ndef _start(): pass\n"
    said = not_loaded(worker, code, "main.main")
    assert said == "Module 'main' has no function 'main'; its functions are: _start, hello."


def test_a_module_without_functions_says_so(worker: Worker) -> None:
    said = not_loaded(worker, "from os.path import join\n", "main.main")
    assert said == "Module 'main' has no function 'main'; it has no functions of its own."


def test_lists_of_names_are_bounded(make_worker: MakeWorker) -> None:
    files: dict[str, str | bytes] = {f"{'x' * 180}{number:02}.py": "" for number in range(60)}
    files["main.py"] = "".join(f"def {'f' * 5000}{number}(): pass\n" for number in range(500))
    said = not_loaded(make_worker(), files, "hello.main")
    assert said.endswith("and 41 more.")
    assert len(said) < 2000
    said = not_loaded(make_worker(), files, "main.main")
    assert said.endswith("and 480 more.")
    assert len(said) < 2000


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.scandir = os.path.isdir = os.path.isfile = os.path.join = None\n",
        "import builtins as b\nb.sorted = b.any = None\n",
    ],
)
def test_a_module_that_spoils_what_messages_need_gets_a_message(make_worker: MakeWorker, code: str) -> None:
    assert not_loaded(make_worker(), code, "main.main")
    files = {"pkg/__init__.py": code}
    assert not_loaded(make_worker(), files, "pkg.mod.main")


# Imports


def test_a_missing_import_of_the_module_is_not_a_missing_entry(worker: Worker) -> None:
    said = not_loaded(worker, "import os\nimport requests\n" + _FINE, "main.main")
    assert said.startswith("ModuleNotFoundError: No module named 'requests' (main.py, line 2). Neither the package nor")


def test_a_module_that_fails_to_import_itself_under_another_name_is_no_missing_entry(worker: Worker) -> None:
    said = not_loaded(worker, {"pkg/__init__.py": "import pkg.mod\n"}, "pkg.mod.main")
    assert said.startswith("ModuleNotFoundError: No module named 'pkg.mod' (pkg/__init__.py, line 1).")


def test_an_import_that_the_only_folder_has_is_a_package_to_zip_differently(worker: Worker) -> None:
    files = {"hello/main.py": "import helper\n" + _FINE, "hello/helper.py": ""}
    said = not_loaded(worker, files, "hello.main.main")
    assert (
        "No module named 'helper' (hello/main.py, line 1). All files are in the folder hello/, which has helper" in said
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ndef main(:\n", "SyntaxError: invalid syntax (main.py, line 2)."),
        ("x = 1\nx.y\n", "AttributeError: 'int' object has no attribute 'y' (main.py, line 2)."),
        ("raise ImportError\n", "ImportError (main.py, line 1)."),
        ("raise SystemExit(3)\n", "SystemExit: 3 (main.py, line 1)."),
    ],
)
def test_an_import_that_raises_says_where(worker: Worker, code: str, said: str) -> None:
    assert not_loaded(worker, code, "main.main") == said


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
    ("code", "when"), [("def main(): {}\n", ""), ("{}\n" + _FINE, ", while its module was imported")]
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


def test_a_package_of_many_files_is_listed_in_part(make_worker: MakeWorker) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(3000):
            archive.writestr(f"file{number:04}.txt", "")
    said = not_loaded(make_worker(max_package_files=5000), buffer.getvalue(), "main.main")
    assert said.endswith(", and at least 980 more.")
