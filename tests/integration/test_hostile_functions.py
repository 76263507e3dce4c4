"""Hostile functions end with a clear error; their next call works, and nobody else notices.

Everything is real: HTTP through Gunicorn, the warm pool, sandboxed workers. With `RUNTIME_FORMS=all`, as in `make
soak`, all is done in each form of isolation.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.service import Service, running_service, wait_until

# The settings WORKER_START and SANDBOX.
FORMS = {"auto": ("auto", "auto")}
if os.environ.get("RUNTIME_FORMS") == "all":
    FORMS = {"fork": ("fork", "auto"), "exec": ("exec", "auto"), "rlimits": ("auto", "rlimits")}


@pytest.fixture(
    scope="module",
    params=[pytest.param(form, marks=pytest.mark.xdist_group(f"hostile-functions-{form}")) for form in FORMS],
)
def form(request: pytest.FixtureRequest) -> str:
    """A key of `FORMS`."""
    return str(request.param)


@pytest.fixture(scope="module")
def service(form: str) -> Iterator[Service]:
    """One service in each form for all of these tests."""
    worker_start, sandbox = FORMS[form]
    limits = {"max_workers": 12, "worker_idle_s": 60}
    # With new interpreters, because functions look for secrets in the processes' environment.
    with running_service(new_interpreters=True, **limits, worker_start=worker_start, sandbox=sandbox) as running:
        yield running


RESOURCES = "Function execution failed because of too much resource consumption"
TIMEOUT = "Function execution timeout"

# Each is called as main(mode='attack'), then as main(): the answer of the second shows that the function works.
ATTACKS: dict[str, tuple[str, Any]] = {
    "an endless loop": ("while True: pass", TIMEOUT),
    "a sleep past the timeout": ("import time; time.sleep(60)", TIMEOUT),
    "signals ignored": (
        "import signal\n"
        "    for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM): signal.signal(n, signal.SIG_IGN)\n"
        "    while True: pass",
        TIMEOUT,
    ),
    "os._exit": ("import os; os._exit(0)", RESOURCES),
    "a segmentation fault": ("import ctypes; ctypes.string_at(0)", RESOURCES),
    "a memory bomb": ("x = []\n    while True: x.append(bytearray(1 << 22))", RESOURCES),
    "a result that is not JSON": (
        "return object()", lambda text: text.startswith("The result can't be JSON: result is of type object."),
    ),
    "a result that holds itself": (
        "x = []; x.append(x); return x",
        lambda text: text.startswith("The result can't be JSON: result[0] refers back to result"),
    ),
    "a result of NaN": (
        "return float('nan')", lambda text: text.startswith("The result can't be JSON: result is nan, a number"),
    ),
    "a result above the limit": (
        "return 'x' * 3_000_000",
        "The result is too large: 3000002 bytes of JSON, and at most 1048576 are allowed.",
    ),
    # It is above the limit of memory, too, which is looked at from time to time.
    "a result of 50 MB": (
        "return 'x' * 50_000_000", lambda text: text.startswith("The result is too large") or text == RESOURCES,
    ),
    "an exception with a huge message": (
        "raise ValueError('y' * 5_000_000)", lambda text: text.startswith("yyy") and len(text) < 20_000,
    ),
    "an exception that can't be shown": (
        "E = type('E', (Exception,), {'__str__': lambda self: 1 / 0}); raise E()",
        "E (its text can't be made: its __str__ raised)",
    ),
    "SystemExit": ("import sys; sys.exit('so long')", "so long"),
    "kill of its parent": ("import os; os.kill(os.getppid(), 9)", "[Errno 1] Operation not permitted"),
    "kill of everybody": ("import os; os.kill(-1, 9); return 'alive'", "alive"),
    "patched json": (
        "import json; json.dumps = json.JSONEncoder.encode = None; return {'still': 'json'}",
        {"still": "json"},
    ),
    "a spoiled answering channel": (
        "import os\n    for n in range(3, 64):\n"
        "        try: os.write(n, b'garbage' * 100)\n        except OSError: pass\n"
        "    return 'spoiled'",
        RESOURCES,
    ),
    "every descriptor closed": ("import os; os.closerange(0, 256)", RESOURCES),
    "a fork that also returns": ("import os; os.fork(); return 'once'", "once"),
    # Without a file system of its own for /tmp (form rlimits), a file is bounded, or the supervisor ends the function.
    "a full /tmp": (
        "import os; f = open(os.environ['TMPDIR'] + '/fill', 'wb')\n    while True: f.write(b'z' * 65536); f.flush()",
        lambda text: "No space left" in text or "File too large" in text or text == RESOURCES,
    ),
    # It depends on the machine whether this takes less than the timeout of 3 s.
    "a 1 GB print": (
        "import os; line = b'p' * 65536\n    for _ in range(16384): os.write(1, line)\n    return 'printed'",
        lambda text: text in ("printed", TIMEOUT),
    ),
    # The forks use more memory than is allowed, unless the limit of processes comes first.
    "a fork bomb": (
        "import os, time\n    try:\n        while True: os.fork()\n    except OSError as e: time.sleep(30)",
        lambda text: text in (TIMEOUT, RESOURCES),
    ),
}

# Attacks that hit nothing: the function returns.
HARMLESS = ("kill of everybody", "patched json", "a fork that also returns")

REASONS = {
    "os._exit": "The function's process ended by itself with exit status 0, as by os._exit.",
    "a segmentation fault": "The function's process was ended by signal 11 (SIGSEGV).",
    "a memory bomb": "The function used more than its memory_size of 33554432 bytes (32 MiB).",
    "a result that is not JSON": "The result can't be JSON: result is of type object."
    " Return only dicts, lists, text, numbers, booleans and None.",
    "SystemExit": "The function raised SystemExit: so long (main.py, line 3).",
}

# Functions that leave something, or attack the process of the call, are tried with isolation by call as well.
BY_CALL = (
    "an endless loop", "os._exit", "a segmentation fault", "a memory bomb", "kill of its parent", "kill of everybody",
    "a spoiled answering channel", "every descriptor closed", "a fork that also returns", "a full /tmp", "a fork bomb",
)  # fmt: skip

# A process that has answered may still be ending, so the count waits a moment; processes that were left stay. The
# parent is not counted, because with isolation by call it has the function's uid.
SECOND = """
    import glob, os, time
    own = os.getpid(), os.getppid()
    def others():
        found = 0
        for path in glob.glob('/proc/[0-9]*/stat'):
            try: found += os.stat(path).st_uid == os.getuid() and int(path.split('/')[2]) not in own
            except OSError: pass
        return found
    until = time.monotonic() + 2
    while others() and time.monotonic() < until: time.sleep(0.01)
    return 'fine, %d files in /tmp, %d other processes' % (len(os.listdir(os.environ['TMPDIR'])), others())
"""


def attack_source(code: str) -> str:
    return f"def main(mode=None):\n  if mode:\n    {code}\n  else:\n{SECOND}"


def output_of(execution: dict[str, Any]) -> Any:
    return json.loads(execution["result"])["output"]


@pytest.fixture(scope="module")
def bystander(service: Service) -> str:
    return service.function(
        "import os\nborn = os.getpid()\ncalls = 0\n\ndef main():\n    global calls\n    calls += 1\n    return calls\n"
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_function_gets_its_error_and_its_next_call_works(service: Service, bystander: str, name: str) -> None:
    attack(service, bystander, name, "warm")


@pytest.mark.parametrize("name", BY_CALL)
def test_attacks_with_isolation_by_call(service: Service, bystander: str, name: str) -> None:
    attack(service, bystander, name, "per_call")


def attack(service: Service, bystander: str, name: str, isolation: str) -> None:
    code, expected = ATTACKS[name]
    calls_before = output_of(service.call(bystander))
    function = service.function(attack_source(code), timeout=3, isolation=isolation)

    attacked = service.call(function, {"mode": "attack"})

    output = output_of(attacked)
    if callable(expected):
        assert expected(output), output
    else:
        assert output == expected
    reason = attacked["status_reason"]
    if output == TIMEOUT:
        assert reason == "The function ran longer than its timeout of 3 s."
    elif name in REASONS:
        assert reason == REASONS[name]
    assert attacked["status"] == ("success" if name in HARMLESS or output == "printed" else "failed")
    again = service.call(function)
    assert output_of(again) == "fine, 0 files in /tmp, 0 other processes"
    assert again["status"] == "success"
    # The other function kept its worker and that worker's state.
    assert output_of(service.call(bystander)) == calls_before + 1


def test_timeout_takes_at_least_the_timeout(service: Service) -> None:
    execution = service.call(service.function("def main():\n    while True: pass\n", timeout=1))
    assert json.loads(execution["result"])["duration"] >= 1
    assert execution["status"] == "failed"


@pytest.mark.parametrize(
    ("source", "entry", "said"),
    [
        ("def main(:\n", "main.main", "SyntaxError: invalid syntax (main.py, line 1)"),
        ("def main(): pass\n", "other.main", "at its top level are: main.py."),
        ("def main(): pass\n", "main.missing", "its functions are: main."),
        ("raise RuntimeError('at import')\n", "main.main", "RuntimeError: at import (main.py, line 1)"),
        ("import os; os._exit(3)\n", "main.main", "exit status 3"),
    ],
    ids=["a syntax error", "a missing module", "a missing function", "a raise at import", "an exit at import"],
)
def test_code_that_can_not_be_loaded_fails_with_the_reason(
    service: Service, source: str, entry: str, said: str
) -> None:
    function = service.function(source, entry)
    for _ in range(2):
        execution = service.call(function)
        assert execution["status"] == "failed"
        assert said in output_of(execution)
        assert execution["status_reason"] == output_of(execution)


SPY = """
import os, glob, socket

def read(path):
    try:
        with open(path, 'rb') as f:
            return f.read(65536).decode('latin-1')
    except OSError as e:
        return 'refused: ' + e.strerror

def main(paths=(), ports=(), sockets=()):
    found = {path: read(path) for path in paths}
    found['environ'] = dict(os.environ)
    found['processes'] = {path: read(path) for path in glob.glob('/proc/[0-9]*/environ')}
    others = [p for p in glob.glob('/proc/[0-9]*/mem') if p != '/proc/%d/mem' % os.getpid()]
    found['memory'] = [p for p in others if not read(p).startswith('refused')]
    for port in ports:
        try:
            socket.create_connection(('127.0.0.1', port), 1).close()
            found[str(port)] = 'connected'
        except OSError as e:
            found[str(port)] = 'refused'
    for path in sockets:
        try:
            s = socket.socket(socket.AF_UNIX); s.connect(path)
            found[path] = 'connected'
        except OSError as e:
            found[path] = 'refused'
    found['files'] = [os.path.join(d, n) for d, _, names in os.walk('/code') for n in names] + os.listdir('/')
    found['uid'] = os.getuid()
    return found
"""


def test_function_sees_nothing_of_the_service_or_of_others(service: Service, form: str) -> None:
    if form == "rlimits":
        pytest.skip("without bubblewrap, functions see the host's network and processes")
    secret = service.function("SECRET = 'the other function'\ndef main(): return SECRET\n")
    service.call(secret)
    database = str(service.var_dir / "qinling.db")
    valkey_socket = service.environ["REDIS_URL"].removeprefix("unix://").partition("?")[0]
    spy = service.function(SPY)
    port = int(service.url.rpartition(":")[2])

    seen = output_of(
        service.call(spy, {"paths": ["/etc/shadow", database], "ports": [port], "sockets": [valkey_socket]})
    )

    assert seen["/etc/shadow"].startswith("refused")
    assert seen[database].startswith("refused")
    assert seen[str(port)] == "refused"
    assert seen[valkey_socket] == "refused"
    text = json.dumps([seen["environ"], seen["processes"]])
    for name in ("VAR_DIR", "REDIS_URL", "DATABASE_URL", service.environ["VAR_DIR"]):
        assert name not in text
    own = [path for path, content in seen["processes"].items() if not content.startswith("refused")]
    assert len(own) <= 2, own  # its own process, under two names
    assert seen["memory"] == [] or all("self" in path for path in seen["memory"])
    assert [path for path in seen["files"] if path.startswith("/code/") and path != "/code/__pycache__"] == [
        "/code/main.py"
    ]
    assert seen["uid"] != 0


def test_endless_loops_do_not_stop_other_functions(service: Service) -> None:
    loop = service.function("def main():\n    while True: pass\n", timeout=3)
    good = service.function("def main(): return 'good'\n")
    attackers = [threading.Thread(target=service.call, args=(loop,)) for _ in range(3)]
    for thread in attackers:
        thread.start()
    assert [output_of(service.call(good)) for _ in range(20)] == ["good"] * 20
    for thread in attackers:
        thread.join()


def test_all_capacity_is_back_after_the_attacks(service: Service) -> None:
    runtime = service.runtime()

    def settled() -> bool:
        capacity = service.capacity(runtime)
        return capacity["available"] >= 1 and capacity["total"] <= 12

    wait_until("warm workers wait again", settled)


def test_background_process_of_a_function_does_not_outlive_a_timeout(service: Service) -> None:
    source = (
        "import os, socket, time\n"
        "def main(mode=None):\n"
        "    if mode:\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            if os.fork() == 0:\n"
        "                time.sleep(600)\n"
        "        time.sleep(60)\n"
        "    import glob\n"
        "    found = []\n"
        "    for path in glob.glob('/proc/[0-9]*/stat'):\n"
        "        try:\n"
        "            if os.stat(path).st_uid == os.getuid(): found.append(open(path).read().split(')')[0])\n"
        "        except OSError: pass\n"
        "    return found\n"
    )
    function = service.function(source, timeout=2)
    assert output_of(service.call(function, {"mode": 1})) == TIMEOUT
    assert len(output_of(service.call(function))) == 1
