"""Starts workers, each in its own greenlet, and reports the result to the registry, the runtimes and the starts."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators.base import (
    NoRoom,
    Orchestrator,
    OrchestratorAway,
    StartFailed,
    UnknownImage,
    WorkerInfo,
)
from qinling_falcon.pool.policy import Policy
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runtimes import Runtimes, Trial
from qinling_falcon.pool.starts import Starts

logger = logging.getLogger(__name__)


class Starter:
    """Starts the workers that the manager wants.

    Args:
        registry: registers each worker before its start, and records when it is ready or has failed.
        orchestrator: makes the workers.
        runtimes: knows the image of each runtime, and counts failures.
        starts: the starts that run now.
        policy: measures the cost of starts.

    Attributes:
        trials: by runtime, the image of which a trial worker is being started.
    """

    def __init__(
        self, registry: Registry, orchestrator: Orchestrator, runtimes: Runtimes, starts: Starts, policy: Policy
    ):
        self._registry = registry
        self._orchestrator = orchestrator
        self._runtimes = runtimes
        self._starts = starts
        self._policy = policy
        self.trials: dict[str, str] = {}

    def begin(self, runtime_id: str, image: str) -> None:
        """Begin to start a worker, if Redis has room for it."""
        worker_id = str(uuid.uuid4())
        if self._registry.register(worker_id, runtime_id, image):
            self._starts.begin(worker_id, runtime_id, image)
            gevent.spawn(self._start, worker_id, runtime_id, image)

    def begin_trial(self, trial: Trial) -> None:
        """Begin to start the trial worker of an image."""
        worker_id = str(uuid.uuid4())
        self.trials[trial.runtime_id] = trial.image
        self._starts.begin(worker_id, trial.runtime_id, trial.image, is_trial=True)
        gevent.spawn(self._try_image, worker_id, trial)

    def _start(self, worker_id: str, runtime_id: str, image: str) -> None:
        try:
            since = time.monotonic()
            worker = self._start_wanted(worker_id, runtime_id, image)
            if worker is not None:
                wall_ms = (time.monotonic() - since) * 1000
                self._policy.note_start(max(worker.cpu_ms, wall_ms / self._orchestrator.concurrent_starts))
                self._registry.mark_ready(worker, runtime_id, image)
                self._starts.succeeded(runtime_id, image)
                self._runtimes.started(runtime_id, image)
            else:
                self._registry.remove(worker_id)
            self._roll_on()
        except (UnknownImage, StartFailed) as error:
            logger.warning("a worker of runtime %s did not start: %s", runtime_id, error)
            self._starts.failed(runtime_id, image)
            with contextlib.suppress(Unavailable):
                self._registry.remove(worker_id, str(error))
                self._runtimes.start_failed(runtime_id, image, error)
                self._roll_on()
        except OrchestratorAway as error:
            logger.info("a worker of runtime %s is started later: %s", runtime_id, error)
            self._starts.rest(runtime_id, image)
            with contextlib.suppress(Unavailable):
                self._registry.remove(worker_id)
                if isinstance(error, NoRoom):
                    self._runtimes.found_no_room(runtime_id, image, error)
        except Unavailable as error:
            logger.warning("worker %s could not be made known: %s", worker_id, error)
        finally:
            # From here on, a full pass treats the worker like any other. It removes the worker if only the registry or
            # only the orchestrator has it.
            self._starts.end(worker_id)
            self._wake_soon()

    def _start_wanted(self, worker_id: str, runtime_id: str, image: str) -> WorkerInfo | None:
        """Start a worker. None: its image was replaced meanwhile, so the worker was destroyed."""
        if self._runtimes.images.get(runtime_id) == image:
            worker = self._orchestrator.start(worker_id, image, runtime_id)
            if self._runtimes.images.get(runtime_id) == image:
                return worker
        self._orchestrator.destroy(worker_id)
        return None

    def _try_image(self, worker_id: str, trial: Trial) -> None:
        """Start the trial worker of an image. If it answers, it is the first worker of the image that serves."""
        try:
            worker = self._orchestrator.start(worker_id, trial.image, trial.runtime_id)
            is_wanted = self._runtimes.promote(trial)
            if is_wanted and self._registry.register(worker_id, trial.runtime_id, trial.image):
                self._registry.mark_ready(worker, trial.runtime_id, trial.image)
            else:
                self._orchestrator.destroy(worker_id)
        except (UnknownImage, StartFailed) as error:
            logger.warning("image %s of runtime %s failed: %s", trial.image, trial.runtime_id, error)
            with contextlib.suppress(Unavailable):
                self._runtimes.start_failed(trial.runtime_id, trial.image, error)
        except Unavailable as error:
            logger.warning("image %s of runtime %s is tried again: %s", trial.image, trial.runtime_id, error)
            if isinstance(error, NoRoom):
                with contextlib.suppress(Unavailable):
                    self._runtimes.found_no_room(trial.runtime_id, trial.image, error)
        finally:
            self._starts.end(worker_id)
            self.trials.pop(trial.runtime_id)
        with contextlib.suppress(Unavailable):
            self._roll_on()

    def _wake_soon(self) -> None:
        """Make the manager run a growth pass, because a start slot is free."""
        with contextlib.suppress(Unavailable):
            self._registry.wake_to_grow()

    def _roll_on(self) -> None:
        """Make the manager run a full pass if workers are being replaced, because the next one can be replaced now."""
        if self._runtimes.rolling:
            self._registry.wake()
