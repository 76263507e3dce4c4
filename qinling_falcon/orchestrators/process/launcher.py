"""Makes a worker's process: forks it from a zygote, or executes its program in a new sandbox.

`orchestrator.py` calls this when the worker has its folder, user ids and control groups.
"""

from __future__ import annotations

import contextlib
import os

from qinling_falcon.orchestrators.process import leftovers, sandbox
from qinling_falcon.orchestrators.process.cgroups import Subtree
from qinling_falcon.orchestrators.process.handover import Handover
from qinling_falcon.orchestrators.process.homes import Homes
from qinling_falcon.orchestrators.process.images import LocalRuntime
from qinling_falcon.orchestrators.process.install import Install
from qinling_falcon.orchestrators.process.isolation import Isolation
from qinling_falcon.orchestrators.process.processes import execute
from qinling_falcon.orchestrators.process.programs import Programs
from qinling_falcon.orchestrators.process.sandbox import Box
from qinling_falcon.orchestrators.process.worker import Worker
from qinling_falcon.orchestrators.process.zygotes import Zygote, Zygotes
from qinling_falcon.settings import Settings


class Launcher:
    """Makes the processes of an install's workers, and its zygotes.

    Args:
        settings: the service's settings.
        install: the install that the workers belong to.
        isolation: how the workers are confined.
        homes: the workers' folders.
        subtree: the workers' control groups.
    """

    def __init__(self, settings: Settings, install: Install, isolation: Isolation, homes: Homes, subtree: Subtree):
        self._settings = settings
        self._install = install
        self._isolation = isolation
        self._homes = homes
        self._subtree = subtree
        self._programs = Programs(install.folder / "programs")
        self._zygotes = Zygotes(self._make_zygote)

    def execute(self, worker: Worker, runtime: LocalRuntime, handover: Handover) -> None:
        """Execute the runtime's program, and wait until its sandbox is complete.

        Raises:
            OSError: the program can't be executed.
            StartFailed: the sandbox took too long.
        """
        assert worker.home is not None
        form = self._isolation.form
        program = self._programs.prepare(runtime)
        if form is sandbox.Form.RLIMITS:
            program = worker.home.make_plain(program)
        mark = leftovers.mark(self._install.install_id, worker.worker_id)
        numbers = handover.listen_fd, handover.config_fd, handover.group_fd
        words = sandbox.worker_words(form, runtime, program, mark, *numbers)
        box = Box(worker.slot, worker.home.code, None, program.parent, runtime.interpreter, (self._install.folder,))
        report_end, own_report_end = os.pipe()
        with os.fdopen(report_end, "rb") as reports:
            with (
                os.fdopen(own_report_end, "wb") as reporter,
                contextlib.closing(sandbox.wrap(form, self._isolation.tools, self._settings, box, words)) as command,
            ):
                worker.process = execute(
                    command, worker.group, handover.descriptors, reporter.fileno(), worker.messages.fd
                )
            worker.await_sandbox(reports.fileno(), self._settings.worker_start_timeout_s)

    def fork(self, worker: Worker, runtime: LocalRuntime, handover: Handover) -> None:
        """Fork the worker from the runtime's zygote.

        Raises:
            StartFailed: the zygote can't be started, or can't fork.
        """
        assert worker.home is not None
        entrances = worker.group.open_entrances(version_1_only=True)
        for entrance in entrances:
            handover.callback(os.close, entrance)
        folder = worker.group.open_folder()
        if folder is not None:
            handover.callback(os.close, folder[0])
        request = {
            "sandbox": {
                "worker_id": worker.worker_id,
                "folder": worker.home.path.name,
                "uid": worker.slot.uid if worker.slot else None,
                "child_uid": worker.slot.child_uid if worker.slot else None,
                "tmp_size": self._settings.tmp_size,
                "shm_size": self._settings.shm_size,
                "own_network": self._settings.network != "host",
            },
            "passed": len(handover.descriptors),
            "listen_fd": handover.listen_fd,
            "config_fd": handover.config_fd,
            "group_fd": handover.group_fd,
            "entrances": len(entrances),
            "has_folder": folder is not None,
            "needs_folder": folder is not None and folder[1],
        }
        descriptors = [*handover.descriptors, worker.messages.fd, *entrances, *([] if folder is None else [folder[0]])]
        worker.process = self._zygotes.fork(runtime, request, descriptors)

    def close(self) -> None:
        """End the zygotes."""
        self._zygotes.close()

    def _make_zygote(self, runtime: LocalRuntime, number: int) -> Zygote:
        name = f"zygote-{number}"
        program = self._programs.prepare(runtime)
        box = Box(None, None, self._homes.folder, program.parent, runtime.interpreter, (self._install.folder,))
        mark = leftovers.mark(self._install.install_id, name)

        def command(control_fd: int) -> sandbox.Command:
            words = sandbox.zygote_words(runtime, program, mark, control_fd)
            return sandbox.wrap(self._isolation.form, self._isolation.tools, self._settings, box, words)

        return Zygote(command, self._subtree.make_group(name, None), self._settings.worker_start_timeout_s)
