"""The seccomp filter: its decisions on each architecture, and functions that must work under it."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtimes.python3.qinling_worker import seccomp, syscalls
from tests.runtime.client import Worker
from tests.runtime.conftest import MakeWorker, by_isolation

ALLOWED, NOTHING = 0, -1  # the call goes on; the call does nothing and seems to succeed
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
OTHERS = {  # numbers of calls that the filter allows
    "x86_64": {"read": 0, "execve": 59, "setresuid": 117, "futex": 202, "kill": 62, "rseq": 334, "close_range": 436},
    "aarch64": {"read": 63, "execve": 221, "setresuid": 147, "futex": 98, "kill": 129, "rseq": 293, "close_range": 436},
}


def decide(program: bytes, number: int, arguments: Sequence[int] = (), architecture: int = 0) -> int:
    """What a filter answers: `ALLOWED`, `NOTHING` or an error's number.

    A copy of the kernel's interpreter, for the other architecture.
    """
    data = struct.pack("=IIQ", number, architecture, 0) + struct.pack("=6Q", *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    instructions = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    register = at = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == 0x20:
            (register,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            register &= operand
        elif code == 0x06:
            return ALLOWED if operand == 0x7FFF0000 else operand & 0xFFFF or NOTHING
        else:
            held = {0x15: register == operand, 0x35: register >= operand, 0x45: bool(register & operand)}[code]
            at += if_true if held else if_false


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def answers(machine: str, name: str, *arguments: int) -> int:
    number = {**OTHERS[machine], **syscalls.NUMBERS[machine]}[name]
    return decide(seccomp.assemble(machine), number, arguments, MACHINES[machine])


def test_the_numbers_are_those_of_the_kernel(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("needs the kernel's headers")
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", text)}
    shared = syscalls.NUMBERS[machine].keys() & known.keys()
    assert len(shared) > 90
    assert {name: syscalls.NUMBERS[machine][name] for name in shared} == {name: known[name] for name in shared}


def test_calls_that_no_function_needs_are_denied(machine: str) -> None:
    for name in ("unshare", "mount", "keyctl", "bpf", "io_uring_setup", "ptrace", "shmget", "mq_open", "sync", "setns"):
        assert answers(machine, name) == errno.EPERM, name
    for name in ("clone3", "timer_create", "io_setup"):
        assert answers(machine, name) == errno.ENOSYS, name
    for name in OTHERS[machine]:
        assert answers(machine, name) == ALLOWED, name


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("clone", (0x01200011,), ALLOWED),  # fork
        ("clone", (0x003D0F00,), ALLOWED),  # a thread
        ("clone", (0x10000011,), errno.EPERM),  # CLONE_NEWUSER
        ("clone", (0x1_00000000 | 0x00020011,), errno.EPERM),  # CLONE_NEWNS: the upper bits are not read
        ("clone", (0x8011,), errno.EPERM),  # CLONE_PARENT
        ("clone", (0x01200012,), errno.EPERM),  # SIGCONT to the parent at the end
        ("socket", (1, 5, 0), ALLOWED),
        ("socket", (2, 1 | 0o2004000, 6), ALLOWED),  # with flags
        ("socket", (10, 2, 17), ALLOWED),
        ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),  # SCTP
        ("socket", (2, 5, 0), errno.EPROTONOSUPPORT),
        ("socket", (2, 3, 1), errno.EPROTONOSUPPORT),  # raw
        ("socket", (16, 3, 0), errno.EAFNOSUPPORT),  # AF_NETLINK
        ("socket", (40, 1, 0), errno.EAFNOSUPPORT),  # AF_VSOCK
        ("socket", (38, 5, 0), errno.EAFNOSUPPORT),  # AF_ALG
        ("socketpair", (1, 1, 0), ALLOWED),
        ("socketpair", (30, 1, 0), errno.EAFNOSUPPORT),  # AF_TIPC
        ("prctl", (38, 1), ALLOWED),
        ("prctl", (1, 9), ALLOWED),  # PR_SET_PDEATHSIG
        ("prctl", (1, 18), errno.EPERM),  # SIGCONT
        ("ioctl", (0, 0x5413), ALLOWED),
        ("ioctl", (0, 0x5412), errno.EPERM),
        ("ioctl", (0, 0x1_00005412), errno.EPERM),
        ("personality", (0xFFFFFFFF,), ALLOWED),
        ("personality", (0x0040000,), errno.EPERM),
        ("pipe2", (0, 0o2000000), ALLOWED),
        ("pipe2", (0, 0x80), errno.EPERM),
        ("setsockopt", (3, 1, 2), ALLOWED),
        ("setsockopt", (3, 1, 26), errno.EPERM),  # SO_ATTACH_FILTER
        ("setsockopt", (3, 6, 26), ALLOWED),
        ("setsockopt", (3, 6, 31), errno.EPERM),  # TCP_ULP
        ("setsockopt", (3, 41, 26), ALLOWED),
        ("fcntl", (3, 4), ALLOWED),
        ("fcntl", (3, 1024), errno.EPERM),  # F_SETLEASE
        ("fcntl", (3, 10, 34), ALLOWED),  # F_SETSIG
        ("fcntl", (3, 10, 18), errno.EPERM),  # SIGCONT
        ("fcntl", (3, 10, 9), errno.EPERM),  # SIGKILL
        ("mmap", (0, 4096, 3, 0x22), ALLOWED),
        ("mmap", (0, 4096, 3, 0x40022), errno.EPERM),  # MAP_HUGETLB
        ("memfd_create", (1, 3), ALLOWED),
        ("memfd_create", (1, 4), errno.EPERM),  # MFD_HUGETLB
        ("setrlimit", (7, 1), ALLOWED),
        ("setrlimit", (4, 1), NOTHING),  # RLIMIT_CORE
        ("prlimit64", (0, 4, 0, 1), ALLOWED),
        ("prlimit64", (0, 4, 1, 0), NOTHING),
        ("prlimit64", (0, 4, 1, 1), errno.EPERM),
        ("prlimit64", (5, 4, 1, 1), errno.EPERM),
        ("prlimit64", (5, 7, 1), ALLOWED),
    ],
)
def test_calls_are_decided_by_their_arguments(machine: str, name: str, arguments: Sequence[int], answer: int) -> None:
    assert answers(machine, name, *arguments) == answer


CHANGES = pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("prlimit64", (0, 7, 1), ALLOWED),
        ("prlimit64", (5, 7, 0), ALLOWED),  # a question
        ("prlimit64", (5, 7, 1), errno.EPERM),
        ("prlimit64", (5, 7, 0x1_00000000), errno.EPERM),  # a pointer whose lower half is 0
        ("sched_setaffinity", (0, 8, 1), ALLOWED),
        ("sched_setaffinity", (7, 8, 1), ALLOWED),
        ("sched_setaffinity", (5, 8, 1), errno.EPERM),
        ("setpriority", (0, 0, 5), ALLOWED),
        ("setpriority", (0, 5, 5), errno.EPERM),
        ("setpriority", (2, 0, 5), errno.EPERM),  # all of the user's processes
        ("ioprio_set", (1, 0, 0), ALLOWED),
        ("ioprio_set", (3, 0, 0), errno.EPERM),
        ("setpriority", (0, 7, 5), ALLOWED),
    ],
)


@CHANGES
def test_others_can_not_be_changed(machine: str, name: str, arguments: Sequence[int], answer: int) -> None:
    number, architecture = syscalls.NUMBERS[machine][name], MACHINES[machine]
    program = seccomp.assemble_for_child(machine, seccomp.ChangeRule((0, 7), allowed=True), True)
    assert decide(program, number, arguments, architecture) == answer
    program = seccomp.assemble_for_child(machine, seccomp.ChangeRule((1, 5), allowed=False), True)
    assert decide(program, number, arguments, architecture) == answer
    assert decide(seccomp.assemble_for_child(machine, None, True), number, arguments, architecture) == ALLOWED


@pytest.mark.parametrize("change_rule", [None, seccomp.ChangeRule((0,), allowed=True)])
def test_a_child_loads_no_filter_of_its_own(machine: str, change_rule: seccomp.ChangeRule | None) -> None:
    program, numbers = seccomp.assemble_for_child(machine, change_rule, True), syscalls.NUMBERS[machine]
    assert decide(program, numbers["seccomp"], (), MACHINES[machine]) == errno.EPERM
    assert decide(program, numbers["prctl"], (22, 2), MACHINES[machine]) == errno.EPERM
    assert decide(program, numbers["prctl"], (38, 1), MACHINES[machine]) == ALLOWED
    assert decide(program, OTHERS[machine]["read"], (), MACHINES[machine]) == ALLOWED


@pytest.mark.parametrize(("has_memory_group", "answer"), [(True, ALLOWED), (False, errno.ENOSYS)])
def test_files_in_memory_are_made_only_where_they_count(machine: str, has_memory_group: bool, answer: int) -> None:
    program = seccomp.assemble_for_child(machine, None, has_memory_group)
    number = syscalls.NUMBERS[machine]["memfd_create"]
    assert decide(program, number, (1, 0), MACHINES[machine]) == answer


def test_a_function_makes_no_file_in_memory_that_nothing_counts(make_worker: MakeWorker) -> None:
    worker = make_worker(memory_fds={})
    worker.load("import os\ndef main():\n    os.memfd_create('x')\n")

    answer = worker.execute()

    assert answer.status == "failed"
    assert "Function not implemented" in str(answer.output)


CHANGE_ITSELF = """
import ctypes, os, resource, threading

library = ctypes.CDLL(None)
library.pthread_self.restype = ctypes.c_ulong

def errno_of(change, *arguments):
    try:
        return change(*arguments) or 0
    except OSError as error:
        return error.errno

def set_thread():
    size, cores = ctypes.c_size_t(128), ctypes.create_string_buffer(128)
    library.sched_getaffinity(0, size, cores)
    return library.pthread_setaffinity_np(ctypes.c_ulong(library.pthread_self()), size, cores)

def by_pid():
    pid = os.getpid()
    return [
        errno_of(os.sched_setaffinity, pid, os.sched_getaffinity(0)),
        errno_of(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (200, 200)) and 0),
        errno_of(os.setpriority, os.PRIO_PROCESS, pid, 5),
        set_thread(),
    ]

def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(set_thread()))
    thread.start()
    thread.join()
    return found

def in_fork():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, bytes(by_pid()))
        os._exit(0)
    os.wait()
    return list(os.read(read, 100))

def main():
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    return by_pid(), in_thread(), in_fork()
"""


@by_isolation
def test_a_function_may_change_itself(worker: Worker, child_uid: int | None, isolation: str) -> None:
    worker.load(CHANGE_ITSELF)
    own, other = 0, 0
    if child_uid is None:
        # These workers have no PID namespace. The service's other processes may have the uid of the function, so that
        # it can change only the caller, as 0, and with isolation `warm` the function's first process.
        own, other = errno.EPERM if isolation == "per_call" else 0, errno.EPERM
    for _ in range(2):
        assert worker.execute().output == [[own] * 4, [other], [other] * 4]


def test_other_architectures_and_newer_calls_are_not_there(machine: str) -> None:
    program = seccomp.assemble(machine)
    other = next(value for name, value in MACHINES.items() if name != machine)
    for architecture in (other, 0x40000003, 0x40000028):  # and 32-bit programs of both
        assert decide(program, OTHERS[machine]["read"], (), architecture) == errno.ENOSYS
    for number in (syscalls.LAST + 1, 0x40000000, 0x40000000 + 101, 0xFFFFFFFF):  # x32 from 0x40000000 on
        assert decide(program, number, (), MACHINES[machine]) == errno.ENOSYS
    assert decide(program, syscalls.LAST, (), MACHINES[machine]) == ALLOWED


LIVELY = """
import asyncio, concurrent.futures, json, multiprocessing, os, resource, socket, sqlite3, ssl, subprocess, threading

def pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, 2])

def manager():
    with multiprocessing.Manager() as made:
        shared = made.dict()
        shared["a"] = 1
        return shared.copy()

async def spawned():
    process = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
    return [(await process.communicate())[0].decode(), await asyncio.to_thread(lambda: "thread")]

def rows():
    database = sqlite3.connect("file.db")
    database.execute("pragma journal_mode=wal")
    database.execute("create table t (a)")
    return database.execute("insert into t values (1) returning a").fetchall()

def connected():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.send(b"x")
        return server.accept()[0].recv(1).decode()

def main():
    os.chdir(os.environ["TMPDIR"])
    threads = [threading.Thread(target=os.getpid) for _ in range(12)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        executed = list(executor.map(abs, [-3]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    ssl.create_default_context()
    return {"pool": pool(), "manager": manager(), "asyncio": asyncio.run(spawned()), "sqlite": rows(),
            "socket": connected(), "executor": executed, "shell": subprocess.getoutput("echo a | cat")}
"""


@pytest.mark.parametrize("child_uid", [None])
def test_what_functions_usually_do_still_works(make_worker: MakeWorker) -> None:
    worker = make_worker(max_processes=128)
    assert worker.load(LIVELY, memory_size=256 << 20)[0] == 200
    answer = worker.execute(timeout_s=60)
    assert (answer.status, answer.message) == ("success", None)
    assert answer.output == {
        "pool": [1, 2], "manager": {"a": 1}, "asyncio": ["hi\n", "thread"], "sqlite": [[1]], "socket": "x",
        "executor": [3], "shell": "a",
    }  # fmt: skip


STATUS = "def main():\n    return open('/proc/self/status').read()"


@pytest.mark.skipif(os.uname().machine not in MACHINES, reason="no filter for this architecture")
def test_the_child_and_its_template_are_filtered(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.load(STATUS)
    assert "Seccomp:\t2\n" in worker.execute().output
    assert "Seccomp:\t2\n" in Path(f"/proc/{worker.template()}/status").read_text()
