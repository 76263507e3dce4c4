"""Text that functions print is in the log of the call that printed it, in whole lines."""

from __future__ import annotations

import pytest

from tests.runtime.client import MIB, Worker
from tests.runtime.conftest import MakeWorker

C = "import ctypes\nlibc = ctypes.CDLL(None)\n"
BUFFERS = {
    "wrapped": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nsay = print\n",
    "wrapped in each call": (
        "import io, sys\ndef say(text):\n"
        "    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\n    print(text)\n"
    ),
    "reconfigured": "import sys\nsys.stdout.reconfigure(write_through=False)\nsay = print\n",
    "stderr": (
        "import sys\nsys.stderr.reconfigure(write_through=False)\n"
        "def say(text): sys.stderr.write(text + '\\n')\n"
    ),
    "detached": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nsay = print\n",
    "opened by number": "import sys\nsys.stdout = open(1, 'w', closefd=False)\nsay = print\n",
    "opened by name": "import sys\nsys.stdout = open('/dev/stdout', 'w')\nsay = print\n",
    "sys.__stdout__": (
        "import sys\nsys.__stdout__ = open(1, 'w', closefd=False)\n"
        "def say(text): sys.__stdout__.write(text + '\\n')\n"
    ),
    "the module's own, long ago": (
        "import gc\nout = open(1, 'w', closefd=False)\ngc.collect()\ndef say(text): out.write(text + '\\n')\n"
    ),
    "the module's own": "out = open(1, 'w', closefd=False)\ndef say(text): out.write(text + '\\n')\n",
    "the module's own, binary": (
        "import os\nout = os.fdopen(os.dup(2), 'wb')\ndef say(text): out.write(text.encode() + b'\\n')\n"
    ),
    "the module's own, of a class of its own": (
        "import io\nclass Out(io.TextIOWrapper): pass\nout = Out(open(1, 'wb', closefd=False))\n"
        "def say(text): out.write(text + '\\n')\n"
    ),
    "the module's own, binary, of a class of its own": (
        "import io\nclass Out(io.BufferedWriter): pass\nout = Out(open(1, 'wb', 0, closefd=False))\n"
        "def say(text): out.write(text.encode() + b'\\n')\n"
    ),
    "made by the first call": (
        "out = None\ndef say(text):\n    global out\n    if text == 'imported':\n        print(text)\n        return\n"
        "    if out is None: out = open(1, 'w', closefd=False)\n    out.write(text + '\\n')\n"
    ),
    "tee": (
        "import sys\nclass Tee:\n    texts = []\n    def write(self, text): self.texts.append(text)\n"
        "    def flush(self):\n        sys.__stdout__.write(''.join(self.texts))\n        self.texts.clear()\n"
        "sys.stdout = Tee()\nsay = print\n"
    ),
    "C, a line": f"{C}def say(text): libc.puts(text.encode())\n",
    "C, less than a line": f"{C}def say(text): libc.printf(b'%s', text.encode())\n",
    "C, a stream": (
        f"{C}libc.fdopen.restype = ctypes.c_void_p\nout = libc.fdopen(1, b'w')\n"
        "def say(text): libc.fputs(text.encode() + b'\\n', ctypes.c_void_p(out))\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("buffer", BUFFERS)
def test_what_is_in_a_buffer_is_in_the_log_of_its_call(worker: Worker, buffer: str) -> None:
    worker.load(
        f"{BUFFERS[buffer]}\ncalls = 0\nsay('imported')\ndef main():\n    global calls\n    calls += 1\n"
        "    say(f'call {calls} ' + '.' * 3000)\n    if calls == 2: raise ValueError('no luck')\n"
    )
    printed = [worker.execute().printed for _ in range(3)]
    assert printed[0].startswith("imported")
    for number, log in enumerate(printed, 1):
        assert [word for word in ("call 1 ", "call 2 ", "call 3 ") if word in log] == [f"call {number} "]
        assert log.count(".") >= 3000
    assert printed[1].index("call 2") < printed[1].index("Traceback")


@pytest.mark.parametrize(
    "made", ["open(1, 'w', closefd=False)", "os.fdopen(os.dup(1), 'w')", "open('/dev/stdout', 'w')"]
)
def test_a_buffer_that_a_later_call_makes_is_found(worker: Worker, made: str) -> None:
    worker.load(
        "import os, time\nkept = []\ndef main():\n    time.sleep(0.3)  # the last search is long ago\n"
        f"    kept.append({made})\n    kept[-1].write(f'call {{len(kept)}}\\n')\n"
    )
    assert [worker.execute().printed for _ in range(3)] == [f"call {number}\n" for number in (1, 2, 3)]


def test_a_buffer_that_the_garbage_collector_has_moved_is_found(worker: Worker) -> None:
    worker.load(
        "import gc, time\nout, calls = None, 0\ndef main():\n    global calls, out\n    calls += 1\n"
        "    time.sleep(0.3)  # the last search is long ago\n"
        "    out = open(1, 'w', closefd=False)\n    gc.collect()\n    out.write(f'call {calls}\\n')\n"
    )
    assert [worker.execute().printed for _ in range(3)] == [f"call {number}\n" for number in (1, 2, 3)]


def test_objects_that_lie_about_their_class_are_not_asked_for_it(worker: Worker) -> None:
    worker.load(
        "class Unbound:\n    @property\n    def __class__(self): raise RuntimeError('outside of a request')\n"
        "class Kind(type):\n    def __eq__(self, other): raise RuntimeError('not comparable')\n"
        "    __hash__ = None\nclass Odd(metaclass=Kind): pass\n"
        "kept = []\ndef main():\n    kept.extend([Unbound(), Odd()])\n    return len(kept)\n"
    )
    assert worker.outputs(3) == [2, 4, 6]


@pytest.mark.parametrize("buffer", ["wrapped", "opened by number", "C, less than a line"])
def test_what_is_in_a_buffer_is_in_the_log_of_a_call_with_a_process_of_its_own(worker: Worker, buffer: str) -> None:
    code = f"{BUFFERS[buffer]}\nsay('imported')\ndef main(number):\n    say(f'call {{number}}')\n"
    assert worker.load(code, isolation="per_call")[0] == 200
    printed = [worker.execute(str(number)).printed for number in range(3)]
    assert [log.replace("imported", "").strip() for log in printed] == ["call 0", "call 1", "call 2"]
    assert [log.count("imported") for log in printed] == [1, 0, 0]


def test_what_is_in_a_buffer_when_the_import_raises_is_in_the_log(worker: Worker) -> None:
    worker.load(f"import sys\n{BUFFERS['wrapped']}{C}print('one')\nlibc.printf(b'two')\nraise ValueError('no luck')\n")
    printed = worker.execute().printed
    assert printed.startswith("one\ntwoTraceback")


def test_lines_of_c_are_in_the_log_when_the_process_ends(worker: Worker) -> None:
    worker.load(f"{C}import os\ndef main():\n    libc.puts(b'last words')\n    os._exit(1)\n")
    assert worker.execute().printed == "last words\n"


@pytest.mark.parametrize(
    "spoil",
    [
        "sys.stdout.close()",
        "sys.stdout = sys.stderr = None",
        "del sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__",
        "sys.stdout.detach()",
        "class Odd:\n    def flush(self): raise SystemExit('ha')\nsys.stdout = Odd()",
        "sys.stdout = io.StringIO(); sys.stdout.close()",
        "io.TextIOWrapper(sys.stdout.buffer)",
        "import ctypes; sys.stdout = ctypes",
    ],
)
def test_a_function_that_spoils_its_streams_gets_its_answers(worker: Worker, spoil: str) -> None:
    worker.load(f"import io, os, sys\n{spoil}\ndef main():\n    os.write(1, b'written\\n')\n    return 'fine'\n")
    for _ in range(2):
        answer = worker.execute()
        assert (answer.output, answer.printed) == ("fine", "written\n")


def test_a_module_that_closes_the_log_gets_its_answers(worker: Worker) -> None:
    worker.load("import os\nos.close(1)\nos.close(2)\ndef main(): return 'fine'\n")
    for _ in range(2):
        assert worker.execute().output == "fine"


def test_a_copy_that_a_flush_makes_answers_nothing(worker: Worker) -> None:
    worker.load(
        "import os, sys\nclass Forking:\n    def flush(self): os.fork()\n"
        "calls = 0\ndef main():\n    global calls\n    sys.stdout = Forking()\n    calls += 1\n    return calls\n"
    )
    assert worker.outputs(5) == [1, 2, 3, 4, 5]


def test_prints_of_threads_and_processes_stay_whole_lines(make_worker: MakeWorker) -> None:
    worker = make_worker(max_log_size=8 * MIB)
    worker.load(
        "import os, sys, threading\n"
        "def talk(name):\n    for number in range(200):\n        print(name, number, 'x' * (number % 50), sep='-')\n"
        "        print(name, number, 'y' * (number % 50), sep='-', file=sys.stderr)\n"
        "def main():\n    pids = []\n    for name in 'pq':\n        pid = os.fork()\n"
        "        if not pid:\n            talk(name)\n            os._exit(0)\n        pids.append(pid)\n"
        "    threads = [threading.Thread(target=talk, args=(name,)) for name in 'abcd']\n"
        "    for thread in threads: thread.start()\n    for thread in threads: thread.join()\n"
        "    for pid in pids: os.waitpid(pid, 0)\n",
        memory_size=64 * MIB,
    )
    expected = sorted(f"{name}-{n}-{letter * (n % 50)}" for name in "abcdpq" for n in range(200) for letter in "xy")
    assert sorted(worker.execute().printed.splitlines()) == expected


def test_long_prints_of_threads_stay_whole_lines(make_worker: MakeWorker) -> None:
    worker = make_worker(max_log_size=8 * MIB)
    worker.load(
        "import signal, sys, threading\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('alarm'))\nsignal.setitimer(signal.ITIMER_REAL, .001, .001)\n"
        "def talk(letter):\n    for _ in range(15): print(letter * 100_000)\n"
        "def main():\n    threads = [threading.Thread(target=talk, args=(letter,)) for letter in 'abcd']\n"
        "    for thread in threads: thread.start()\n    for thread in threads: thread.join()\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    lines = worker.execute().printed.splitlines()
    assert {(line[0], len(line)) for line in lines if line != "alarm"} == {(letter, 100_000) for letter in "abcd"}


def test_long_prints_of_processes_stay_whole_lines(make_worker: MakeWorker) -> None:
    worker = make_worker(max_log_size=16 * MIB)
    worker.load(
        "import os\ndef talk(letter):\n    for _ in range(100): print(letter * 30_000)\n"
        "def main():\n    pids = []\n    for letter in 'pqr':\n        pid = os.fork()\n"
        "        if not pid:\n            talk(letter)\n            os._exit(0)\n        pids.append(pid)\n"
        "    talk('m')\n    for pid in pids: os.waitpid(pid, 0)\n",
        memory_size=64 * MIB,
    )
    lines = worker.execute().printed.splitlines()
    assert {(line[0], len(line)) for line in lines} == {(letter, 30_000) for letter in "mpqr"}
    assert len(lines) == 400


def test_a_process_that_is_killed_in_a_long_print_keeps_no_other_from_printing(make_worker: MakeWorker) -> None:
    worker = make_worker(max_log_size=64 * MIB)
    worker.load(
        "import os, signal, time\ndef main():\n    pid = os.fork()\n    while not pid: print('x' * 1_000_000)\n"
        "    time.sleep(0.05)\n    os.kill(pid, signal.SIGKILL)\n    os.waitpid(pid, 0)\n"
        "    print('\\n' + 'y' * 10_000)\n",
        memory_size=64 * MIB,
    )
    assert worker.execute().printed.splitlines()[-1] == "y" * 10_000


def test_a_signal_handler_can_end_a_print_that_waits_for_another_process(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.load(
        "import fcntl, os, signal, time\ndef late(*_): raise TimeoutError('too late')\n"
        "def main():\n    reader, writer = os.pipe()\n    pid = os.fork()\n    if not pid:\n"
        "        fcntl.lockf(1, fcntl.LOCK_EX)\n        os.write(writer, b'1')\n        time.sleep(60)\n"
        "    os.read(reader, 1)\n    signal.signal(signal.SIGALRM, late)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        "    try:\n        print('x' * 10_000)\n    except TimeoutError as error:\n        return str(error)\n"
        "    finally:\n        os.kill(pid, signal.SIGKILL)\n        os.waitpid(pid, 0)\n",
        memory_size=64 * MIB,
    )
    assert worker.execute().output == "too late"


def test_a_fork_does_not_take_over_a_print_of_another_thread(worker: Worker) -> None:
    worker.load(
        "import os, threading, time\nheld = threading.Event()\n"
        "def talk():\n    while not held.is_set(): print('x' * 30_000)\n"
        "def main():\n    talker = threading.Thread(target=talk)\n    talker.start()\n"
        "    for _ in range(50):\n        pid = os.fork()\n        if pid == 0:\n"
        "            print('child')\n            os._exit(0)\n        os.waitpid(pid, 0)\n"
        "    held.set()\n    talker.join()\n",
        memory_size=64 * MIB,
    )
    assert worker.execute().status == "success"


def test_a_print_that_signals_interrupt_is_whole(make_worker: MakeWorker) -> None:
    worker = make_worker(max_log_size=64 * MIB)
    worker.load(
        "import signal\ndef main():\n    signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "    signal.setitimer(signal.ITIMER_REAL, .0002, .0002)\n"
        "    for _ in range(10): print('x' * 3_000_000)\n    signal.setitimer(signal.ITIMER_REAL, 0)\n",
        memory_size=64 * MIB,
    )
    assert worker.execute().printed == ("x" * 3_000_000 + "\n") * 10


def test_a_pipe_that_another_program_has_made_non_blocking_takes_everything(make_worker: MakeWorker) -> None:
    worker = make_worker(max_log_size=8 * MIB)
    worker.load("import os\ndef main():\n    os.set_blocking(1, False)\n    print('x' * 5_000_000)\n")
    assert worker.execute().printed == "x" * 5_000_000 + "\n"


@pytest.mark.parametrize(
    ("call", "printed"),
    [
        ("print()", "\n"),
        ("print(1, None, [2], 'ä\\udc00')", "1 None [2] ä\\udc00\n"),
        ("print('a', 'b', sep=None, end=None)", "a b\n"),
        ("print('a', 'b', sep='', end='!', flush=True)", "ab!\n"),
        ("print('a', file=sys.stderr)", "a\n"),
        ("out = io.StringIO(); print('a', 1, sep='-', file=out); sys.stdout.write(out.getvalue())", "a-1\n"),
        ("import functools; functools.partial(print, 'a', end='.')('b')", "a b.\n"),
        ("import pickle; pickle.loads(pickle.dumps(print))('same')", "same\n"),
        ("print(print.__name__, print.__module__)", "print builtins\n"),
        ("print(print)", "<built-in function print>\n"),
        ("import copy; copy.deepcopy({'say': print})['say']('same')", "same\n"),
        ("Job = type('Job', (), {'say': print}); Job().say('a')", "a\n"),
        ("sys.stdout = None; print('nothing')", ""),
    ],
)
def test_print_works_as_ever(worker: Worker, call: str, printed: str) -> None:
    worker.load(f"import io, sys\ndef main():\n    {call}\n")
    answer = worker.execute()
    assert (answer.message, answer.printed) == (None, printed)


@pytest.mark.parametrize("call", ["print('a', sep=1)", "print('a', end=b'')", "print('a', file=1)", "print(ends='')"])
def test_print_refuses_what_it_always_has(worker: Worker, call: str) -> None:
    worker.load(f"import sys\ndef main():\n    {call}\n")
    answer = worker.execute()
    assert answer.reason == "exception"
    assert ("TypeError" in (answer.message or "")) == ("file=1" not in call)


def test_the_log_can_be_opened_by_name(worker: Worker) -> None:
    worker.load(
        "import os, subprocess\ndef main():\n"
        "    for name in ('/dev/stdout', '/dev/stderr', '/proc/self/fd/1'):\n"
        "        with open(name, 'w') as file: file.write(f'to {name}\\n')\n"
        "    with open('/dev/stderr', 'a') as file: file.write('appended\\n')\n"
        "    with open('/dev/stdout', 'rb+', 0) as file: file.write(b'to read and write\\n')\n"
        "    subprocess.run('echo shell > /dev/stderr; echo tee | tee /dev/stdout', shell=True, check=True)\n"
        "    subprocess.run('exec 3<>/dev/stdout; echo third >&3', shell=True, check=True)\n"
    )
    answer = worker.execute()
    assert answer.message is None
    expected = ["appended", "shell", "tee", "tee", "third"]
    expected += ["to /dev/stderr", "to /dev/stdout", "to /proc/self/fd/1", "to read and write"]
    assert sorted(answer.printed.splitlines()) == expected


def test_standard_streams_have_the_names_and_modes_of_any_python(worker: Worker) -> None:
    worker.load(
        "import sys\ndef main():\n"
        "    return [[each.name, each.mode] for each in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__)]\n"
    )
    expected = [["<stdin>", "r"], ["<stdout>", "w"], ["<stderr>", "w"], ["<stdout>", "w"]]
    assert worker.execute().output == expected
