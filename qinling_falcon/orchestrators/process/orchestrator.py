"""Workers as sandboxed processes of this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import subprocess
from typing import Any

from qinling_falcon.orchestrators.base import StartedWorker, StartFailed
from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.cgroups import Limits, Subtree, hierarchies
from qinling_falcon.orchestrators.process.guard import Guard
from qinling_falcon.orchestrators.process.homes import Homes
from qinling_falcon.orchestrators.process.images import LocalRuntime, RuntimeTable
from qinling_falcon.orchestrators.process.install import Install
from qinling_falcon.orchestrators.process.isolation import demand, examine
from qinling_falcon.orchestrators.process.programs import Programs
from qinling_falcon.orchestrators.process.sandbox import CODE, SHM, TMP, Box, Form, worker_words, wrap
from qinling_falcon.orchestrators.process.slots import Slots
from qinling_falcon.orchestrators.process.sweep import sweep
from qinling_falcon.orchestrators.process.worker import Worker, await_removed
from qinling_falcon.settings import MIB, Settings

_log = logging.getLogger(__name__)
_BASE_MEMORY = 64 * MIB  # the supervisor, its template process, and the interpreter itself in the child
_BASE_PROCESSES = 16  # bubblewrap's two, the supervisor, its template, and children that are being replaced
_BACKLOG = 64
_WORKER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ProcessOrchestrator:
    """Makes, watches and destroys workers on this machine (`orchestrators.base.Orchestrator`).

    It ends what an earlier manager of the same `VAR_DIR` left behind. Its workers end with the thread that
    starts them, so that all calls come from the manager's main thread.

    Args:
        settings: the service's settings.

    Raises:
        SettingsError: the runtimes' table is wrong, or the sandbox that is demanded does not work here.
        AlreadyRunning: another live manager has this `VAR_DIR`.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._install = Install(settings.var_dir, wait_s=settings.shutdown_grace_s)
        try:
            self._prepare()
        except BaseException:
            self._install.close()
            raise
        self._workers: dict[str, Worker] = {}
        self._closed = False

    def _prepare(self) -> None:
        settings, install_id = self._settings, self._install.install_id
        self._isolation = examine(settings)
        missing = "; ".join(f"{feature} ({note})" for feature, _, note in self._isolation.missing())
        _log.warning("isolation form=%s missing=%r", self._isolation.form, missing)
        demand(settings, self._isolation)
        self._form = self._isolation.form
        self._own_uids = self._form is not Form.BUBBLEWRAP_USER and self._isolation.second_uid
        foreign = self._own_uids and self._form is Form.RLIMITS
        self._table = RuntimeTable(settings.runtimes_file, foreign_uid=foreign)
        self._slots = Slots(settings.sandbox_uid_base)
        self._homes = Homes(self._install.workers_dir, install_id, foreign_uid=foreign)
        self._programs = Programs(self._install.folder / "programs")
        self._subtree = Subtree(install_id, hierarchies())
        sweep(self._install, self._subtree, self._homes, self._slots)
        self._guard = Guard(install_id, self._install.lock)

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no worker can be made from `image`."""
        self._table.resolve(image)

    def start(self, worker_id: str, image: str) -> StartedWorker:
        """Make a worker and wait until it answers.

        Raises:
            UnknownImage: the table does not have the image, or its interpreter is not usable.
            StartFailed: it ended or did not answer in time; nothing of it is left.
        """
        runtime = self._table.resolve(image)
        if not _WORKER_ID.fullmatch(worker_id) or worker_id in self._workers:
            raise StartFailed(f"worker id {worker_id!r} is in use or can't be used")
        if self._closed:
            raise StartFailed("the orchestrator is closed")
        mark = leftovers.mark(self._install.install_id, worker_id)
        worker = self._workers[worker_id] = Worker(worker_id, mark, walled=self._form is not Form.RLIMITS)
        secret = secrets.token_urlsafe(32)
        try:
            with worker.lock:
                port = self._spawn(worker, runtime, mark, secret)
            worker.await_answer(port, self._settings.worker_start_timeout_s)
        except (OSError, subprocess.SubprocessError) as error:
            self._remove(worker)
            raise StartFailed(f"worker {worker_id} could not be made: {error}") from error
        except BaseException:
            self._remove(worker)
            raise
        worker.ready = True
        return StartedWorker(worker_id, f"127.0.0.1:{port}", secret)

    def destroy(self, worker_id: str) -> None:
        """End a worker with everything in it, and wait until it is gone. Unknown ids are no error."""
        worker = self._workers.get(worker_id)
        if worker:
            self._remove(worker)

    def exited(self) -> list[str]:
        """Ids of workers that ended by themselves since the last call; nothing of them is left."""
        # A look can let other greenlets run, and those start and end workers.
        found = [worker for worker in list(self._workers.values()) if worker.has_exited()]
        for worker in found:
            _log.warning("worker_exited worker_id=%s how=%r", worker.worker_id, worker.describe_exit())
            self._remove(worker)
        return [worker.worker_id for worker in found]

    def workers(self) -> list[str]:
        """Ids of the live workers that this orchestrator has started."""
        return [worker.worker_id for worker in self._workers.values() if worker.ready and not worker.ending]

    def close(self) -> None:
        """End all workers, and let another manager have the install."""
        if self._closed:
            return
        self._closed = True
        for worker in list(self._workers.values()):
            worker.kill()
        for worker in list(self._workers.values()):
            self._remove(worker)
        self._subtree.remove()
        self._homes.close()
        self._guard.close()
        self._install.close()

    def _spawn(self, worker: Worker, runtime: LocalRuntime, mark: str, secret: str) -> int:
        """Give the worker all that it needs and execute it; the port that it listens on."""
        worker.slot = self._slots.claim() if self._own_uids else None
        worker.home = self._homes.home(worker.worker_id, worker.slot)
        program = self._programs.prepare(runtime)
        if self._form is Form.RLIMITS:
            program = worker.home.make_plain(program)
        else:
            worker.home.make()
        worker.group = self._subtree.make_group(worker.worker_id, self._limits())
        # Every descriptor is close-on-exec and passed by name: workers that start at once share none. What is
        # passed is closed here, above all the listening socket: calls to a dead worker then fail at once.
        with contextlib.ExitStack() as held:
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(_BACKLOG)
            os.set_blocking(listener.fileno(), True)
            config_end, own_end = os.pipe()
            writer = held.enter_context(os.fdopen(own_end, "wb"))
            held.callback(os.close, config_end)
            report_end, own_report_end = os.pipe()
            reports = held.enter_context(os.fdopen(report_end, "rb"))
            reporter = held.enter_context(os.fdopen(own_report_end, "wb"))
            messages = os.open(worker.home.messages, os.O_WRONLY | os.O_APPEND)
            held.callback(os.close, messages)
            passed = [listener.fileno(), config_end]
            cpu = worker.group.open_cpu()
            if cpu:
                held.callback(os.close, cpu[0])
                passed.append(cpu[0])
            memory_events = worker.group.open_memory_events()
            if memory_events is not None:
                held.callback(os.close, memory_events)
                passed.append(memory_events)
            box = Box(worker.slot, worker.home.code, program.parent, runtime.interpreter, (self._install.folder,))
            words = worker_words(self._form, runtime, program, mark, listener.fileno(), config_end)
            command = wrap(self._form, self._isolation.tools, self._settings, box, words)
            held.callback(command.close)
            worker.spawn(command, passed, reporter.fileno(), messages)
            reporter.close()
            worker.await_sandbox(reports.fileno(), self._settings.worker_start_timeout_s)
            # Only now: a worker whose manager is killed before this gets nothing, and ends.
            with contextlib.suppress(BrokenPipeError):
                writer.write(json.dumps(self._config(worker, secret, cpu, memory_events)).encode())
                writer.flush()
            port: int = listener.getsockname()[1]
        return port

    def _limits(self) -> Limits:
        settings = self._settings
        memory = _BASE_MEMORY + settings.max_memory_size + settings.tmp_size + settings.shm_size
        return Limits(memory, settings.max_processes + _BASE_PROCESSES)

    def _config(
        self, worker: Worker, secret: str, cpu: tuple[int, str] | None, memory_events: int | None
    ) -> dict[str, Any]:
        assert worker.home is not None
        plain = self._form is Form.RLIMITS
        names = (
            "max_result_size", "max_log_size", "max_processes", "max_open_files", "max_file_size", "load_timeout_s",
            "unpack_timeout_s",
            "max_package_files", "max_unpacked_size",
        )  # fmt: skip
        return {
            "secret": secret,
            "code_dir": str(worker.home.code if plain else CODE),
            "scratch_dirs": [str(worker.home.tmp)] if plain else [str(TMP), str(SHM)],
            "child_uid": worker.slot.child_uid if worker.slot else None,
            "child_gid": worker.slot.child_uid if worker.slot else None,
            "cpu_shares_fd": cpu[0] if cpu else None,
            "cpu_shares_format": cpu[1] if cpu else "shares",
            "memory_events_fd": memory_events,
            "memory_fallback": "memory" not in self._subtree.controllers,
            **{name: getattr(self._settings, name) for name in names},
        }

    def _remove(self, worker: Worker) -> None:
        """End the worker and give back all that it held; several callers at once wait for the one."""
        with worker.lock:
            if worker.ending:
                return
            worker.ending = True
            gone = worker.end() and await_removed(worker.group)
            if gone:
                if worker.home:
                    worker.home.remove()
                if worker.slot:
                    self._slots.release(worker.slot)
            else:
                # Its user ids stay taken; the next manager sweeps it.
                _log.error("worker_not_gone worker_id=%s", worker.worker_id)
            del self._workers[worker.worker_id]
