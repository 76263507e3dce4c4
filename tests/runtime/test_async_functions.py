"""Functions that return awaitables: one event loop for all calls, and the tasks that a call leaves."""

from __future__ import annotations

import pytest

from tests.runtime.client import Worker
from tests.runtime.conftest import MakeWorker

HELLO = "async def hello(name):\n    return 'Hello, ' + name\n"


def outputs(worker: Worker, code: str, times: int = 2, given: str | None = None) -> list[object]:
    """Call a function several times. Returns the results; all calls must succeed."""
    assert worker.load(code)[0] == 200
    return worker.outputs(times, given)


@pytest.mark.parametrize(
    "code",
    [
        "import functools\ndef noted(function):\n    @functools.wraps(function)\n"
        "    def inner(*args, **kwargs): return function(*args, **kwargs)\n    return inner\nmain = noted(hello)\n",
        "class Hello:\n    async def __call__(self, name): return await hello(name)\nmain = Hello()\n",
        "class Hello:\n    async def greet(self, name): return await hello(name)\nmain = Hello().greet\n",
        "class Hello:\n    @classmethod\n    async def greet(cls, name):\n        return await hello(name)\n"
        "main = Hello.greet\n",
        "class Hello:\n    def __init__(self, name): self.name = name\n"
        "    def __await__(self): return hello(self.name).__await__()\nmain = Hello\n",
        "main = lambda name: hello(name)\n",
        "import functools\nmain = functools.partial(hello)\n",
        "import types\n@types.coroutine\ndef main(name):\n    return (yield from hello(name).__await__())\n",
        "import asyncio\nloop = asyncio.new_event_loop()\nmain = lambda name: loop.create_task(hello(name))\n",
        "import asyncio\nloop = asyncio.new_event_loop()\n"
        "def main(name):\n    future = loop.create_future()\n"
        "    loop.call_soon(future.set_result, 'Hello, ' + name)\n    return future\n",
        "import asyncio\nmain = lambda name: asyncio.run(hello(name))\n",
        "import asyncio\ndef main(name):\n    loop = asyncio.new_event_loop()\n"
        "    try: return loop.run_until_complete(hello(name))\n    finally: loop.close()\n",
    ],
    ids=[
        "decorated", "callable object", "method", "class method", "awaitable object", "lambda", "partial",
        "generator-based", "task", "future", "asyncio.run", "own loop",
    ],
)  # fmt: skip
def test_what_a_function_returns_is_awaited(worker: Worker, code: str) -> None:
    assert outputs(worker, HELLO + code, given='{"name": "Ada"}') == ["Hello, Ada"] * 2


def test_async_objects_in_module_state_live_on(worker: Worker) -> None:
    code = """
import asyncio

link = lock = None

async def echo(reader, writer):
    while True:
        line = await reader.readline()
        if not line: return
        writer.write(line)

async def count():
    for number in range(10): yield number

async def main():
    global link, lock, numbers, queue
    if link is None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        link = await asyncio.open_connection(*server.sockets[0].getsockname())
        lock, numbers, queue = asyncio.Lock(), count(), asyncio.Queue()
        queue.put_nowait("first")
    reader, writer = link
    number = await numbers.__anext__()
    async with lock:
        writer.write(b"%d\\n" % number)
        said = int(await asyncio.wait_for(reader.readline(), 5))
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put_nowait("next")
    return [said, await waiting]
"""
    assert outputs(worker, code, 3) == [[0, "first"], [1, "next"], [2, "next"]]


def test_a_loop_that_the_module_has_made_is_used(worker: Worker) -> None:
    code = (
        "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n"
        "ticks = []\nasync def tick():\n    while True:\n        ticks.append(1)\n        await asyncio.sleep(0)\n"
        "background = loop.create_task(tick())\n"
        "async def main():\n    await asyncio.sleep(0)\n"
        "    return [asyncio.get_running_loop() is loop, len(ticks) > 0, background.cancelled()]\n"
    )
    assert outputs(worker, code) == [[True, True, False]] * 2


@pytest.mark.parametrize(
    "ending",
    [
        "asyncio.get_event_loop().close()",
        "asyncio.get_event_loop().stop()",
        "asyncio.run(asyncio.sleep(0))",
        "asyncio.set_event_loop(None)",
        "threading.Thread(target=asyncio.get_event_loop().run_forever, daemon=True).start(); time.sleep(.05)",
    ],
    ids=["closed", "stopped", "unset by asyncio.run", "unset", "run by a thread"],
)
def test_a_loop_that_the_function_has_spoilt_is_replaced(worker: Worker, ending: str) -> None:
    code = (
        "import asyncio, threading, time\nasync def later():\n    await asyncio.sleep(0.001)\n    return 'fine'\n"
        f"def main(spoil=False):\n    if not spoil: return later()\n    {ending}\n    return 'spoilt'\n"
    )
    worker.load(code)
    for _ in range(2):
        assert worker.execute().output == "fine"
        assert worker.execute('{"spoil": true}').output == "spoilt"
    assert worker.execute().output == "fine"


def test_the_loop_is_the_current_one_between_its_runs(worker: Worker) -> None:
    worker.load(
        "import asyncio\nran_on = None\nasync def later():\n    global ran_on\n"
        "    ran_on = asyncio.get_running_loop()\n"
        "asyncio.run(asyncio.sleep(0))  # unsets the current loop\n"
        "def main(do=None):\n    return asyncio.get_event_loop() is ran_on if do else later()\n"
    )
    worker.execute()
    assert worker.execute("look").output is True


def test_a_loop_that_is_stopped_during_a_call_goes_on(worker: Worker) -> None:
    code = "import asyncio\nasync def main():\n    asyncio.get_running_loop().stop()\n    await asyncio.sleep(0.001)\n"
    assert outputs(worker, code) == [None, None]


def test_tasks_that_a_call_leaves_are_cancelled_and_named(worker: Worker) -> None:
    code = """
import asyncio

left = []

async def wait():
    try:
        await asyncio.sleep(60)
    finally:
        left.append(asyncio.create_task(more()))
        print("cleaned up")

async def more():
    await asyncio.sleep(60)

async def main():
    left.append(asyncio.create_task(wait()))
    await asyncio.sleep(0)
    return [task.cancelled() for task in left]
"""
    worker.load(code)
    first, second = worker.execute(), worker.execute()
    assert first.output == [False]
    assert second.output == [True, True, False]
    lines = first.printed.splitlines()
    assert lines[0].startswith("Cancelled at the end of the call: Task-")
    assert lines[0].endswith(", wait (main.py, line 8)")
    assert lines[1] == "cleaned up"
    assert lines[2].endswith(", more (main.py, line 14)")
    assert len(lines) == 3


@pytest.mark.parametrize(
    "start",
    [
        "asyncio.ensure_future(wait())",
        "asyncio.get_running_loop().create_task(wait())",
        "asyncio.Task(wait())",
        "make = lambda loop, coro, **more: asyncio.Task(coro, loop=loop, **more); "
        "asyncio.get_running_loop().set_task_factory(make); asyncio.create_task(wait())",
        "asyncio.create_task(start())",
        "asyncio.shield(wait())",
        "asyncio.gather(wait(), wait())",
        "asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(wait()))",
        "loop = asyncio.get_running_loop()\n    await loop.run_in_executor("
        "None, asyncio.run_coroutine_threadsafe, wait(), loop)",
        "loop = asyncio.get_running_loop()\n    threading.Thread("
        "target=asyncio.run_coroutine_threadsafe, args=(wait(), loop)).start(); await asyncio.sleep(0.1)",
        "a, b = socket.socketpair()\n    class Client(asyncio.Protocol):\n"
        "        def connection_made(self, transport): asyncio.ensure_future(wait())\n"
        "    await asyncio.get_running_loop().create_connection(Client, sock=a)",
    ],
)
def test_however_a_call_has_made_its_tasks_they_are_cancelled(worker: Worker, start: str) -> None:
    worker.load(
        "import asyncio, socket, threading\nended = 0\n"
        "async def wait():\n    global ended\n    try: await asyncio.sleep(60)\n"
        "    finally: ended += 1\nasync def start():\n    asyncio.create_task(wait())\n"
        f"async def main():\n    {start}\n    for _ in range(3): await asyncio.sleep(0)\n    return ended\n"
    )
    first = worker.execute()
    assert (first.output, "Cancelled at the end of the call" in first.printed) == (0, True)
    assert worker.execute().output >= 1


@pytest.mark.parametrize(
    "start",
    ["asyncio.create_task(tick())", "asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(tick()))"],
)
def test_tasks_of_a_servers_connections_go_on(worker: Worker, start: str) -> None:
    code = f"""
import asyncio

server, ticks = None, []

async def tick():
    while True:
        ticks.append(1)
        await asyncio.sleep(0)

class Server(asyncio.Protocol):
    def connection_made(self, transport): self.link = transport
    def data_received(self, data):
        {start}
        self.link.write(data)

async def main():
    global server, link
    if server is None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        link = await asyncio.open_connection(*server.sockets[0].getsockname())
        link[1].write(b"hello")
        await link[0].readexactly(5)
    ticks.clear()
    await asyncio.sleep(0.01)
    return len(ticks) > 0
"""
    worker.load(code)
    for _ in range(3):
        answer = worker.execute()
        assert (answer.output, answer.printed) == (True, "")


def test_tasks_of_the_part_before_the_coroutine_are_cancelled(worker: Worker) -> None:
    worker.load(
        "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\ntasks = []\n"
        "async def later(): return [task.cancelled() for task in tasks]\n"
        "def main(do=None):\n    if do: tasks.append(loop.create_task(asyncio.sleep(60)))\n    return later()\n"
    )
    worker.execute()
    assert worker.execute("start").output == [False]
    assert worker.execute().output == [True]


def test_a_call_that_raises_leaves_no_task_either(worker: Worker) -> None:
    worker.load(
        "import asyncio\ntasks = []\nasync def main():\n    tasks.append(asyncio.create_task(asyncio.sleep(60)))\n"
        "    if len(tasks) < 2: raise ValueError('no luck')\n    return tasks[0].cancelled()\n"
    )
    answer = worker.execute()
    assert answer.output == "no luck"
    assert "Cancelled at the end of the call: Task-" in answer.printed
    assert "asyncio" not in answer.printed.partition("Traceback")[2]  # it begins in the function
    assert worker.execute().output is True


def test_the_list_of_cancelled_tasks_is_bounded(worker: Worker) -> None:
    worker.load(
        "import asyncio\nasync def main():\n    for number in range(1000):\n"
        "        task = asyncio.create_task(asyncio.sleep(60))\n"
        "        getattr(task, 'set_name', str)('x' * 10000)\n"
    )
    lines = worker.execute().printed.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "Cancelled at the end of the call: 990 more tasks"
    assert max(map(len, lines)) < 400


def test_a_task_that_goes_on_although_it_is_cancelled_holds_up_one_call(worker: Worker) -> None:
    worker.load(
        "import asyncio\nasync def deaf():\n    while True:\n        try: await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError: pass\n"
        "async def main(do=None):\n    if do:\n        asyncio.create_task(deaf())\n        await asyncio.sleep(0)\n"
    )
    answer = worker.execute("start")
    assert answer.status == "success"
    assert "Goes on after the call, although it was cancelled: Task-" in answer.printed
    assert worker.execute().printed == ""


def test_a_result_does_not_become_a_timeout_because_of_a_task_that_ignores_its_cancellation(worker: Worker) -> None:
    worker.load(
        "import asyncio\nasync def stay():\n    while True:\n        try: await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError: pass\n"
        "async def main():\n    asyncio.create_task(stay())\n    await asyncio.sleep(0.5)\n    return 'done'\n"
    )
    for _ in range(2):
        answer = worker.execute(timeout_s=1)
        assert answer.output == "done"
        assert "Goes on after the call" in answer.printed


@pytest.mark.parametrize("raised", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("shielded", [False, True])
def test_an_interrupt_in_a_task_ends_the_call_and_not_the_loop(worker: Worker, raised: str, shielded: bool) -> None:
    worker.load(
        "import asyncio\nlock = None\n"
        f"async def bad():\n    await asyncio.sleep(0)\n    raise {raised}('enough')\n"
        "async def main(do=None):\n    global lock\n    lock = lock or asyncio.Lock()\n    async with lock:\n"
        "        if not do: return 'fine'\n        asyncio.create_task(bad())\n"
        "        try: await asyncio.sleep(60)\n        finally:\n"
        f"            if {shielded}: await asyncio.sleep(0.01)\n"
    )
    for _ in range(2):
        answer = worker.execute("harm")
        assert (answer.reason, answer.output) == ("exception", "enough")
        assert worker.execute().output == "fine"


def test_an_interrupt_in_a_task_that_is_cancelled_does_not_replace_the_result(worker: Worker) -> None:
    code = (
        "import asyncio\nasync def bad():\n    try: await asyncio.sleep(60)\n    finally: raise SystemExit('late')\n"
        "async def main():\n    for _ in range(2): asyncio.create_task(bad())\n"
        "    await asyncio.sleep(0)\n    return 1\n"
    )
    assert outputs(worker, code) == [1, 1]


def test_a_function_that_cancels_itself_has_raised(worker: Worker) -> None:
    worker.load("import asyncio\nasync def main():\n    asyncio.current_task().cancel()\n    await asyncio.sleep(1)\n")
    for _ in range(2):
        assert worker.execute().message == "The function raised CancelledError (main.py, line 4)."


def test_what_the_end_of_a_call_sets_off_happens_in_that_call(worker: Worker) -> None:
    worker.load(
        "import asyncio, socket\n"
        "async def count():\n    try:\n        yield 1\n        yield 2\n    finally: print('generator closed')\n"
        "class Closing(asyncio.Protocol):\n    def connection_lost(self, error): print('connection closed')\n"
        "async def main():\n    a, b = socket.socketpair()\n"
        "    transport, _ = await asyncio.get_running_loop().create_connection(Closing, sock=a)\n"
        "    transport.close()\n    async for number in count(): return number\n"
    )
    for _ in range(2):
        answer = worker.execute()
        assert (answer.output, sorted(answer.printed.splitlines())) == (1, ["connection closed", "generator closed"])


def test_a_copy_that_comes_out_of_an_async_function_ends(worker: Worker) -> None:
    worker.load(
        "import asyncio, os\nasync def main():\n    asyncio.create_task(asyncio.sleep(60))\n"
        "    await asyncio.sleep(0)\n    os.fork()\n    return 'back'\n"
    )
    for _ in range(2):
        answer = worker.execute()
        assert answer.output == "back"
        assert answer.printed.count("Cancelled") == 1


def test_asyncio_is_imported_before_the_call_if_the_function_needs_it(make_worker: MakeWorker) -> None:
    plain, decorated = make_worker(), make_worker()
    plain.load("import sys\ndef main(): return 'asyncio' in sys.modules\n")
    assert plain.execute().output is False
    decorated.load(
        "import functools, sys\nasync def later(): return 1\n"
        "@functools.wraps(later)\ndef main():\n    print('asyncio' in sys.modules)\n    return later()\n"
    )
    assert decorated.execute().printed == "True\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("async def main(): yield 1", "result is of type async_generator. Return a list of what it yields, "),
        ("async def main(): return [main()]", "result[0] is of type coroutine. Await it, "),
        (
            "import asyncio\nasync def main(): return {'a': asyncio.get_running_loop().create_future()}",
            "result.a is of type Future. Await it, ",
        ),
    ],
    ids=["async generator", "coroutine", "future"],
)
def test_async_objects_in_a_result_say_what_to_do(worker: Worker, code: str, said: str) -> None:
    worker.load(code)
    answer = worker.execute()
    assert answer.reason == "result"
    assert answer.output.startswith(f"The result can't be JSON: {said}")
