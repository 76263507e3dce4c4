"""What user code can reach from inside a worker, and what it can't."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

from .conftest import (
    Manager,
    attempt,
    for_one_test,
    groups_of,
    make_settings,
    make_table,
    marked,
    shared_orchestrator,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the strongest form of sandbox needs root")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(start, id=name, marks=pytest.mark.xdist_group(f"sandbox-{name}"))
        for name, start in (("fork", "auto"), ("exec", "exec"))
    ],
)
def settings(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Settings:
    """The settings of the orchestrator that these tests share."""
    folder = tmp_path_factory.mktemp("sandbox")
    return make_settings(folder, runtimes_file=make_table(folder), worker_start=request.param)


@pytest.fixture(scope="module")
def shared(settings: Settings) -> Iterator[ProcessOrchestrator]:
    with shared_orchestrator(settings) as orchestrator:
        yield orchestrator


@pytest.fixture
def orchestrator(shared: ProcessOrchestrator) -> Iterator[ProcessOrchestrator]:
    with for_one_test(shared) as orchestrator:
        yield orchestrator


@pytest.fixture
def own_settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings for an orchestrator of a test's own."""
    return dataclasses.replace(settings, var_dir=tmp_path / "var")


@pytest.fixture
def worker(orchestrator: ProcessOrchestrator) -> WorkerInfo:
    return orchestrator.start("w1", "probe")


@pytest.fixture
def loopback_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def connect(port: int) -> str:
    return f"import socket; socket.create_connection(('127.0.0.1', {port}), 2).close(); answer = 'connected'"


def test_no_network(worker: WorkerInfo, loopback_port: int) -> None:
    assert attempt(worker, connect(loopback_port))["raised"].startswith("ConnectionRefusedError")
    assert attempt(worker, "import os; answer = sorted(os.listdir('/sys'))")["errno"] == 2
    assert attempt(worker, "import socket; answer = [name for _, name in socket.if_nameindex()]") == ["lo"]


def test_no_abstract_sockets_of_the_host(worker: WorkerInfo) -> None:
    name = f"\0qinling-falcon-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); answer = 'connected'"
        assert attempt(worker, code)["raised"].startswith("ConnectionRefusedError")


def test_no_shared_memory_of_the_host(worker: WorkerInfo) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x71660000 | os.getpid() & 0xFFFF
    create, remove = 0o1000, 0
    segment = libc.shmget(key, 4096, create | 0o666)
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        assert attempt(worker, f"import ctypes; answer = ctypes.CDLL(None).shmget({key}, 4096, 0)") == -1
    finally:
        libc.shmctl(segment, remove, None)


def test_no_names_of_the_host(worker: WorkerInfo) -> None:
    assert attempt(worker, "import socket; answer = socket.gethostname()") == "function"
    groups = attempt(worker, "answer = open('/proc/self/cgroup').read()")
    assert {line.split(":")[2] for line in groups.splitlines()} <= {"/", "/child"}


def test_network_of_the_host_by_setting(
    own_settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator], loopback_port: int
) -> None:
    orchestrator = make_orchestrator(dataclasses.replace(own_settings, network="host"))
    assert attempt(orchestrator.start("w1", "probe"), connect(loopback_port)) == "connected"


def test_files_of_the_host_do_not_appear(worker: WorkerInfo, settings: Settings) -> None:
    for name, kind in (("valkey/valkey.sock", "socket"), ("qinling.db", "database"), ("packages/p.zip", "package")):
        path = settings.var_dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(kind)
        path.chmod(0o666)
    hidden = [
        "/etc/shadow", "/etc/hostname", "/home", "/sys", "/work", "/boot", "/run", "/dev/kmsg", "/dev/sda",
        str(settings.var_dir), str(settings.var_dir / "qinling.db"), str(settings.valkey_socket),
        str(Path(__file__).parents[2]), str(settings.runtimes_file),
    ]  # fmt: skip
    for as_child in (True, False):
        code = f"import os; answer = [path for path in {hidden} if os.path.exists(path)]"
        assert attempt(worker, code, as_child=as_child) == []
    assert attempt(worker, "import os; answer = os.path.exists('/workers') and os.listdir('/workers')") in (False, [])
    assert attempt(worker, "import os; answer = sorted(os.listdir('/'))") == sorted(
        {"bin", "code", "dev", "etc", "lib", "opt", "proc", "runtime", "sbin", "tmp", "usr", "var"}
        | {name for name in ("lib32", "lib64", "libx32") if Path("/", name).exists()}
        | ({"workers"} if settings.worker_start == "auto" else set())  # empty: unmounted
        | interpreter_roots()
    )
    assert attempt(worker, "import os; answer = os.listdir('/var')") == ["tmp"]


def interpreter_roots() -> set[str]:
    """An interpreter with a shared library is also found, by a link, where it was installed."""
    import sys
    import sysconfig

    prefix = Path(os.path.realpath(sys.base_prefix))
    linked = sysconfig.get_config_var("Py_ENABLE_SHARED") and not prefix.is_relative_to("/usr")
    return {prefix.parts[1]} if linked else set()


def test_var_dir_in_usr_is_masked(
    settings: Settings, make_orchestrator: Callable[[Settings], ProcessOrchestrator]
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/usr/local") as folder:
        var_dir = Path(folder) / "var"
        os.chmod(folder, 0o755)
        orchestrator = make_orchestrator(dataclasses.replace(settings, var_dir=var_dir))
        (var_dir / "qinling.db").write_text("rows")
        worker = orchestrator.start("w1", "probe")
        code = f"answer = open('{var_dir / 'qinling.db'}').read()"
        assert "raised" in attempt(worker, code)
        assert attempt(worker, code, as_child=False)["errno"] in (2, 13)
        orchestrator.detach()


def test_environment_of_the_service_is_unknown(own_settings: Settings, make_manager: Callable[..., Manager]) -> None:
    (worker,) = make_manager(own_settings, DATABASE_URL="sqlite:////tmp/very-secret").start("w1")
    assert "very-secret" not in str(attempt(worker, "import os; answer = dict(os.environ)", as_child=False))
    assert attempt(worker, "answer = open('/proc/1/environ').read()")["errno"] == 13
    assert attempt(worker, "answer = open('/proc/1/environ', 'rb').read().decode()", as_child=False)["errno"] == 13
    everything = """
import os
answer = ""
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            answer += open(f"/proc/{pid}/{name}").read()
        except OSError:
            pass
"""
    for as_child in (True, False):
        seen = attempt(worker, everything, as_child=as_child)
        assert "qf_worker=" in seen
        assert "very-secret" not in seen
        assert str(own_settings.var_dir) not in seen


def test_outer_process_has_an_empty_environment(orchestrator: ProcessOrchestrator, settings: Settings) -> None:
    orchestrator.start("w1", "probe")
    bubblewraps = [process for process in marked(settings) if process.words.startswith("bwrap ")]
    assert len(bubblewraps) == 2
    for process in bubblewraps:
        assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""


def test_only_processes_of_the_worker_are_seen(
    orchestrator: ProcessOrchestrator, worker: WorkerInfo, settings: Settings
) -> None:
    orchestrator.start("w2", "probe")
    code = "import os; answer = len([name for name in os.listdir('/proc') if name.isdigit()])"
    assert attempt(worker, code) == (2 if settings.worker_start == "auto" else 3)  # bubblewrap's, as process 1


def test_each_worker_has_user_ids_of_its_own(orchestrator: ProcessOrchestrator, worker: WorkerInfo) -> None:
    ids = "import os; answer = [*os.getresuid(), *os.getresgid(), *os.getgroups()]"
    other = orchestrator.start("w2", "probe")
    found = {tuple(attempt(one, ids, as_child=as_child)) for one in (worker, other) for as_child in (True, False)}
    assert len(found) == 4
    assert all(len(set(each)) == 1 and each[0] > 1000 for each in found)


def test_user_code_can_not_touch_its_supervisor(worker: WorkerInfo) -> None:
    parent = "import os, signal; parent = os.getppid(); "
    assert attempt(worker, parent + "os.kill(parent, signal.SIGKILL)")["errno"] == 1
    assert attempt(worker, parent + "answer = open(f'/proc/{parent}/mem', 'rb').read(1)")["errno"] == 13
    assert attempt(worker, parent + "answer = os.listdir(f'/proc/{parent}/fd')")["errno"] == 13
    assert attempt(worker, "import os; os.kill(1, 9)")["errno"] == 1


def test_user_code_gains_nothing(worker: WorkerInfo) -> None:
    status = "answer = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines())"
    child = attempt(worker, status)
    assert {child[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert child["NoNewPrivs"] == "1"
    assert int(child["CapBnd"], 16) & ~(1 << 5 | 1 << 6 | 1 << 7 | 1 << 8) == 0
    # CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP: to become the second user, and to end what runs under it.
    assert int(attempt(worker, status, as_child=False)["CapEff"], 16) == 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8
    assert attempt(worker, "import os; os.setuid(0)")["errno"] == 1


def test_code_of_another_worker_is_unreachable(
    orchestrator: ProcessOrchestrator, worker: WorkerInfo, settings: Settings
) -> None:
    other = orchestrator.start("w2", "probe")
    assert attempt(other, "open('/code/main.py', 'w')", as_child=False)["errno"] == 30  # read-only
    write = "open(f'/proc/self/fd/{config[\"code_fd\"]}/main.py', 'w').write('secret'); answer = 'written'"
    assert attempt(other, write, as_child=False) == "written"
    assert attempt(other, "answer = open('/code/main.py').read()") == "secret"
    assert attempt(other, "open('/code/main.py', 'w')")["errno"] == 30
    assert attempt(worker, "import os; answer = os.listdir('/code')") == []
    (path,) = (settings.var_dir / "workers").glob("*/code/main.py")
    assert path.read_text() == "secret"
    assert attempt(worker, f"answer = open('{path}').read()")["errno"] == 2


def test_only_scratch_folders_can_be_written(worker: WorkerInfo) -> None:
    for path in (
        "/x",
        "/usr/x",
        "/etc/x",
        "/dev/x",
        "/opt/python/x",
        "/runtime/x",
        "/proc/sys/kernel/hostname",
        "/code/x",
    ):
        assert attempt(worker, f"open('{path}', 'w')")["errno"] in (2, 13, 30), path
    for path in ("/tmp/x", "/dev/shm/x", "/dev/null"):
        assert attempt(worker, f"open('{path}', 'w').write('1'); answer = 'written'") == "written", path
    system = ["/", "/usr", "/runtime", "/code"]  # no user may write there, whatever the permissions are
    code = f"import os; answer = [bool(os.statvfs(path).f_flag & os.ST_RDONLY) for path in {system}]"
    assert attempt(worker, code) == [True] * len(system)


def test_tmp_is_bounded(worker: WorkerInfo, settings: Settings) -> None:
    fill = "with open('{}/big', 'wb') as file: file.write(bytes({}))"
    assert attempt(worker, fill.format("/tmp", settings.tmp_size + 4096))["errno"] == 28
    assert attempt(worker, fill.format("/dev/shm", settings.shm_size + 4096))["errno"] == 28


def test_memory_is_bounded_and_the_supervisor_survives(worker: WorkerInfo) -> None:
    kills = "import os; answer = os.pread(config['memory_fds']['events'], 4096, 0).decode().split()"
    before = attempt(worker, kills, as_child=False)
    assert attempt(worker, f"hog = bytearray({400 * MIB}); answer = 'taken'") == {"status": 9}
    assert attempt(worker, "answer = 'well'") == "well"
    after = attempt(worker, kills, as_child=False)  # by which the supervisor knows what has killed the function
    assert [words[words.index("oom_kill") + 1] for words in (before, after)] == ["0", "1"]


def test_processes_are_bounded(worker: WorkerInfo, settings: Settings) -> None:
    bomb = """
import os, signal, time
pids = []
try:
    while len(pids) < 1000:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        pids.append(pid)
except OSError:
    pass
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
answer = len(pids)
"""
    assert settings.max_processes <= attempt(worker, bomb) <= settings.max_processes + 16


def test_supervisor_sets_its_share_of_the_processors(worker: WorkerInfo, settings: Settings) -> None:
    code = "import os; answer = [os.write(config['cpu_shares_fd'], b'512'), config['cpu_shares_format']]"
    assert attempt(worker, code, as_child=False) == [3, "shares"]
    groups = [group for group in groups_of(settings) if group.name == "w1"]
    (shares,) = [group / "cpu.shares" for group in groups if (group / "cpu.shares").exists()]
    assert shares.read_text() == "512\n"
