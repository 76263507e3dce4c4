"""Workers as sandboxed processes of this machine."""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qinling_falcon.orchestrators.base import (
    Confinement,
    Happening,
    RuntimeImage,
    StartFailed,
    WorkerEvent,
    WorkerInfo,
)
from qinling_falcon.orchestrators.process import leftovers
from qinling_falcon.orchestrators.process.capacity import allow_open_files, host_capacity, memory_for_workers
from qinling_falcon.orchestrators.process.cgroups import Subtree, await_removed, hierarchies
from qinling_falcon.orchestrators.process.child_group import Limits
from qinling_falcon.orchestrators.process.guard import Guard
from qinling_falcon.orchestrators.process.handover import Handover
from qinling_falcon.orchestrators.process.homes import Homes
from qinling_falcon.orchestrators.process.images import LocalRuntime, RuntimeTable
from qinling_falcon.orchestrators.process.install import Install
from qinling_falcon.orchestrators.process.isolation import Feature, demand, examine
from qinling_falcon.orchestrators.process.launcher import Launcher
from qinling_falcon.orchestrators.process.processes import cpu_ms
from qinling_falcon.orchestrators.process.sandbox import CODE, COUNTERS, SHM, TMP, Form, readable_paths
from qinling_falcon.orchestrators.process.slots import Slots
from qinling_falcon.orchestrators.process.sweep import sweep
from qinling_falcon.orchestrators.process.worker import Worker
from qinling_falcon.orchestrators.process.zygotes import FIRST_PASSED
from qinling_falcon.orchestrators.worker_limits import BASE_MEMORY, limits_of
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings, SettingsError

_log = logging.getLogger(__name__)
_CHILD_MEMORY = 16 * MIB  # more than a child uses before it runs user code
_CHILD_PROCESSES = 8  # room for processes of an earlier child that are ending
_BASE_PROCESSES = 16  # bubblewrap's two, the supervisor, its template, and children that are being replaced
_TRIAL_INTERVAL_S = 60.0
_WITHOUT_ZYGOTE = "each worker is started anew, at ten times the CPU"
_WORKER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ProcessOrchestrator:
    """Makes, watches and destroys workers on this machine (`orchestrators.base.Orchestrator`).

    It ends what an earlier manager of the same `VAR_DIR` left behind. Its workers end with the thread that
    starts them, so that all calls come from the manager's main thread, and no worker outlives its manager.

    Args:
        settings: the service's settings.

    Raises:
        SettingsError: the runtimes' table is wrong, or the sandbox that is demanded does not work here.
        AlreadyRunning: another live manager has this `VAR_DIR`.
    """

    workers_outlive_manager = False

    def __init__(self, settings: Settings):
        self.concurrent_starts = os.cpu_count() or 1
        self._settings = settings
        self._install = Install(settings.var_dir, wait_s=settings.shutdown_grace_s)
        self._subtree = Subtree(self._install.install_id, hierarchies())
        try:
            self._prepare()
        except BaseException:
            self._subtree.remove()
            self._install.close()
            raise
        try:
            self._start_zygotes()
        except BaseException:
            self.detach()
            raise

    def _prepare(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._closed = False
        settings, install_id = self._settings, self._install.install_id
        self._open_files = allow_open_files()
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
        sweep(self._install, self._subtree, self._homes, self._slots)
        try:
            self._subtree.limit_memory(memory_for_workers(settings))
        except OSError as error:
            _log.warning("workers_memory_not_limited why=%r", f"{error.filename}: {error.strerror}")
        self._launcher = Launcher(settings, self._install, self._isolation, self._homes, self._subtree)
        self._forking: dict[tuple[Path, Path], Feature] = {}
        self._next_trials: dict[tuple[Path, Path], float] = {}
        self._trial_lock = threading.Lock()
        self._guard = Guard(install_id, self._install.lock)

    def _start_zygotes(self) -> None:
        """Start all zygotes now, so that no call waits for one.

        Raises:
            SettingsError: `WORKER_START` is `fork`, and that does not work on this host.
        """
        for runtime in self._table.with_zygotes():
            can_fork = self._can_fork(runtime)
            if not can_fork and self._settings.worker_start == "fork":
                raise SettingsError(f"WORKER_START=fork: expected a host where that works, but {self.zygote.note}")

    @property
    def most_workers(self) -> int:
        """How many workers this host allows at present."""
        capacity = host_capacity(
            self._settings, self._open_files, are_forked=bool(self._forking) and self.zygote.available
        )
        _log.info("host_capacity workers=%d bound=%r", capacity.workers, capacity.bound)
        return capacity.workers

    @property
    def zygote(self) -> Feature:
        """Whether the workers of all runtimes with `zygote = true` are forked from zygotes, and if not, why."""
        found = sorted(self._forking.values(), key=lambda feature: feature.available)
        return found[0] if found else Feature("zygote", False, f"no runtime with `zygote = true`: {_WITHOUT_ZYGOTE}")

    def confinement(self) -> Confinement:
        """How the workers are confined on this host."""
        missing = tuple((feature, note) for feature, _, note in self._isolation.missing())
        return Confinement(str(self._form), missing)

    def limit(self) -> None:
        """None: the machine's own limit is `most_workers`."""

    def server(self) -> None:
        """None: the workers are made on this machine."""

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no worker can be made from `image`."""
        self._table.resolve(image)

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        """Nothing: the zygotes of all runtimes run from the start on."""

    def start(self, worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        """Make a worker and wait until it answers.

        Args:
            worker_id: a new id.
            image: an image of the table.
            runtime_id: whose worker it is, as `list` shows it.

        Raises:
            UnknownImage: the table does not have the image, or its interpreter is not usable.
            StartFailed: it ended or did not answer in time; nothing of it is left.
        """
        runtime = self._table.resolve(image)
        forks = runtime.zygote and self._can_fork(runtime)
        return self._start(worker_id, runtime, forks=forks, runtime_id=runtime_id, image=image)

    def _start(
        self, worker_id: str, runtime: LocalRuntime, *, forks: bool, runtime_id: str = "", image: str = ""
    ) -> WorkerInfo:
        if not _WORKER_ID.fullmatch(worker_id) or worker_id in self._workers:
            raise StartFailed(f"worker id {worker_id!r} is in use or can't be used")
        if self._closed:
            raise StartFailed("the orchestrator is closed")
        mark = leftovers.mark(self._install.install_id, worker_id)
        worker = self._workers[worker_id] = Worker(worker_id, mark, walled=self._form is not Form.RLIMITS)
        address = f"@qinling-falcon/{self._install.install_id}/{worker_id}"
        secret, since = secrets.token_urlsafe(32), time.time()
        try:
            with worker.lock:
                self._make(worker, runtime, address, secret, forks=forks)
            worker.await_answer(address, self._settings.worker_start_timeout_s)
        except (OSError, subprocess.SubprocessError) as error:
            self._remove(worker)
            raise StartFailed(f"worker {worker_id} could not be made: {error}") from error
        except BaseException:
            self._remove(worker)
            raise
        used_ms = cpu_ms(worker.group.processes())
        worker.info = WorkerInfo(worker_id, address, secret, runtime_id, image, since, used_ms)
        return worker.info

    def destroy(self, worker_id: str) -> None:
        """End a worker with everything in it, and wait until it is gone. Unknown ids are no error."""
        worker = self._workers.get(worker_id)
        if worker:
            self._remove(worker)

    def events(self) -> Sequence[WorkerEvent]:
        """The workers that ended by themselves since the last call; nothing of them is left."""
        # A look can let other greenlets run, and those start and end workers.
        found = [worker for worker in list(self._workers.values()) if worker.has_exited()]
        events = [WorkerEvent(worker.worker_id, Happening.ENDED, worker.describe_exit()) for worker in found]
        for worker in found:
            self._remove(worker)
        return events

    def list(self) -> Sequence[WorkerInfo]:
        """The live workers that this orchestrator has started."""
        return [worker.info for worker in self._workers.values() if worker.info and not worker.ending]

    def detach(self) -> None:
        """End all workers, and let another manager have the install."""
        if self._closed:
            return
        self._closed = True
        for worker in list(self._workers.values()):
            worker.kill()
        for worker in list(self._workers.values()):
            self._remove(worker)
        self._launcher.close()
        self._subtree.remove()
        self._homes.close()
        self._guard.close()
        self._install.close()

    def _can_fork(self, runtime: LocalRuntime) -> bool:
        """Whether workers of a runtime can be forked from a zygote. Each runtime is tried once.

        If its trial has failed, it is tried again after a minute, because the host may only have been too busy.
        """
        key = runtime.program, runtime.interpreter.program
        with self._trial_lock:
            if key not in self._forking:
                self._forking[key] = self._try_forking(runtime)
        if time.monotonic() >= self._next_trials.get(key, math.inf):
            del self._next_trials[key]  # other starts at the same time do not wait for the trial
            self._forking[key] = self._try_forking(runtime)
        return self._forking[key].available

    def _try_forking(self, runtime: LocalRuntime) -> Feature:
        if self._settings.worker_start == "exec":
            return Feature("zygote", False, f"WORKER_START=exec: {_WITHOUT_ZYGOTE}")
        if self._form is Form.RLIMITS:
            return Feature("zygote", False, f"without bubblewrap: {_WITHOUT_ZYGOTE}")
        trial = f"trial-{secrets.token_hex(4)}"
        try:
            self._start(trial, runtime, forks=True)
        except StartFailed as error:
            _log.warning("zygote_unusable program=%s why=%r", runtime.program, str(error))
            key = runtime.program, runtime.interpreter.program
            self._next_trials[key] = time.monotonic() + _TRIAL_INTERVAL_S
            return Feature("zygote", False, f"{error}: {_WITHOUT_ZYGOTE}")
        self.destroy(trial)
        return Feature("zygote", True, "workers are forked in milliseconds")

    def _make(self, worker: Worker, runtime: LocalRuntime, address: str, secret: str, *, forks: bool) -> None:
        """Give the worker its user ids, folder and groups, and make its process, which listens on `address`."""
        worker.slot = self._slots.claim() if self._own_uids else None
        worker.home = self._homes.take(worker.slot)
        owner = worker.slot.uid if worker.slot else None
        worker.group = self._subtree.make_group(worker.worker_id, *self._limits(), owner)
        code_dir = None
        if self._form is not Form.RLIMITS:
            worker.home.make()
            code_dir = worker.home.code
        with Handover(address, worker.group, code_dir, FIRST_PASSED if forks else None) as handover:
            config = self._config(worker, runtime, secret)
            if forks:
                handover.configure(config)
                self._launcher.fork(worker, runtime, handover)
            else:
                self._launcher.execute(worker, runtime, handover)
                # Only now: if the manager is killed before this, the worker reads an empty configuration, and ends.
                handover.configure(config)

    def _limits(self) -> tuple[Limits, Limits]:
        """The limits of a worker, and those of the function's processes in it."""
        settings = self._settings
        memory = settings.max_memory_size + settings.tmp_size + settings.shm_size
        whole = Limits(BASE_MEMORY + memory, settings.max_processes + _BASE_PROCESSES)
        return whole, Limits(_CHILD_MEMORY + memory, settings.max_processes + _CHILD_PROCESSES)

    def _config(self, worker: Worker, runtime: LocalRuntime, secret: str) -> dict[str, Any]:
        assert worker.home is not None
        plain = self._form is Form.RLIMITS
        return {
            "secret": secret,
            "code_dir": str(worker.home.code if plain else CODE),
            "scratch_dirs": [str(worker.home.tmp)] if plain else [str(TMP), str(SHM)],
            "scratch_size": 0 if plain else self._settings.tmp_size + self._settings.shm_size,
            "readable": readable_paths(runtime.interpreter) if plain else ["/"],
            **({"writable": [str(COUNTERS)]} if self._settings.test_counter_dir else {}),
            "child_uid": worker.slot.child_uid if worker.slot else None,
            "child_gid": worker.slot.child_uid if worker.slot else None,
            "own_pids": not plain,
            **limits_of(self._settings),
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
                    self._homes.give_back(worker.home)
                if worker.slot:
                    self._slots.release(worker.slot)
            else:
                # Its user ids stay taken; the next manager sweeps it.
                _log.error("worker_not_gone worker_id=%s", worker.worker_id)
            del self._workers[worker.worker_id]
