"""Keeps the pools of runtimes in step with their rows: the status of each runtime, and the image of its workers.

The rows decide. A rollout has these steps (the columns are in `models/rollout.py`):

1. Trial. The image of a runtime that is `creating`, or `upgrading` with a previous image, is on trial until one worker
   made from it has answered. Until then, workers are made from the previous image.
2. Promotion. Workers are made from the new image. Each pass replaces workers of the old image, one after another; the
   record of each worker has its image. The runtime is `upgrading` until no old worker can get a call.
3. Abort. Three failed starts in a row from the new image abort the rollout, in any step. If the orchestrator does not
   know the image, one is enough. The runtime keeps the previous image, and the row has the reason. A new runtime gets
   the status `error`. While starts fail, no old worker is replaced, so the old workers continue to serve.

When a rollout is complete, the previous image is forgotten. If later starts from the image fail, the manager retries
them for ever, and calls wait. The row then shows the reason until a worker has started. It does so too, in any step,
while there is no room for a worker.

For a runtime that is `deleting`, its pool is removed, and then its row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gevent.lock import BoundedSemaphore

from qinling_falcon.models import rollout
from qinling_falcon.models import runtime as rows
from qinling_falcon.models.states import RuntimeStatus
from qinling_falcon.orchestrators.base import NoRoom, RuntimeImage, StartFailed, UnknownImage
from qinling_falcon.pool.registry import Registry, WorkerRecord
from qinling_falcon.pool.rollout import next_step

log = logging.getLogger(__name__)

_WITH_WORKERS = (RuntimeStatus.CREATING, RuntimeStatus.AVAILABLE, RuntimeStatus.UPGRADING)
# The number of failed starts in a row that abort a rollout.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """A runtime's new image, from which one worker must start before the runtime uses it."""

    runtime_id: str
    image: str


class Runtimes:
    """Keeps the pools' configuration and the runtimes' status in step.

    Attributes:
        images: the image of each runtime that has a pool.
        wanted: the image from which the next worker of each runtime is made: the one on trial, if there is one.
        rolling: the runtimes whose workers are being replaced.

    Args:
        registry: configures and removes the pools.
        warm: the least stock of each runtime.
    """

    def __init__(self, registry: Registry, warm: int):
        self._registry = registry
        self._warm = warm
        self._failed: dict[tuple[str, str], int] = {}
        # By runtime, the reason that its row shows because no worker can be started.
        self._delayed: dict[str, str] = {}
        # Without this lock, a comparison could undo a trial that ends while it reads the rows.
        self._comparing = BoundedSemaphore()
        self.images: dict[str, str] = {}
        self.wanted: list[RuntimeImage] = []
        self.rolling: set[str] = set()

    def reconcile(
        self, stocks: Mapping[str, int], workers: Collection[WorkerRecord], *, is_crowded: bool
    ) -> list[Trial]:
        """Compare the rows with the runtimes that have a pool, and act on the differences.

        Args:
            stocks: the present stock of each runtime that has a pool.
            workers: all workers in Redis.
            is_crowded: whether there are `max_workers` workers.

        Returns:
            The images on trial. `promote` or `start_failed` ends a trial.
        """
        with self._comparing:
            return self._compare(stocks, workers, is_crowded)

    def start_failed(self, runtime_id: str, image: str, error: UnknownImage | StartFailed) -> int:
        """Count a failed start of the runtime from the image. This may abort a trial or a rollout.

        Returns:
            How many starts have failed in a row.

        Raises:
            Unavailable: the database is away. The next failure aborts the rollout.
        """
        failures = self._failed[runtime_id, image] = self._failed.get((runtime_id, image), 0) + 1
        if failures >= _TRIES or isinstance(error, UnknownImage):
            with self._comparing:
                if rollout.abort(runtime_id, image, str(error)):
                    log.warning("runtime %s does not get image %s: %s", runtime_id, image, error)
                    del self._failed[runtime_id, image]
                else:
                    self._note_delay(runtime_id, image, str(error))
        return failures

    def found_no_room(self, runtime_id: str, image: str, error: NoRoom) -> None:
        """Show in the runtime's row that there is no room for a worker.

        Raises:
            Unavailable: the database is away.
        """
        with self._comparing:
            self._note_delay(runtime_id, image, str(error))

    def started(self, runtime_id: str, image: str) -> None:
        """Note that a worker of the runtime has started from the image.

        Raises:
            Unavailable: the database is away. The row shows an old reason until the next start.
        """
        self._failed.pop((runtime_id, image), None)
        if runtime_id in self._delayed:
            rollout.end_delay(runtime_id, image)
            self._delayed.pop(runtime_id, None)

    def _note_delay(self, runtime_id: str, image: str, reason: str) -> None:
        if self._delayed.get(runtime_id) != reason:
            rollout.note_delay(runtime_id, image, reason)
            self._delayed[runtime_id] = reason

    def promote(self, trial: Trial) -> bool:
        """Note that a worker has started from the image on trial. Returns whether the runtime uses the image now."""
        self.started(trial.runtime_id, trial.image)
        with self._comparing:
            if not rollout.promote(trial.runtime_id, trial.image):
                return False
            log.info("runtime %s has image %s from now on", trial.runtime_id, trial.image)
            self.images[trial.runtime_id] = trial.image
            self.rolling.add(trial.runtime_id)
            self._registry.configure(trial.runtime_id, self._warm)
        return True

    def _compare(self, stocks: Mapping[str, int], workers: Collection[WorkerRecord], is_crowded: bool) -> list[Trial]:
        trials = []
        images = {}
        promoted = set()
        wanted = []
        delayed = {}
        for runtime in rows.everything():
            if rollout.is_delayed(runtime):
                delayed[runtime.id] = (runtime.status_reason or "").removeprefix(rollout.DELAYED)
            if runtime.status in _WITH_WORKERS:
                wanted.append(RuntimeImage(runtime.id, runtime.image, runtime.trusted))
            match runtime.status:
                case RuntimeStatus.CREATING:
                    trials.append(Trial(runtime.id, runtime.image))
                case RuntimeStatus.AVAILABLE:
                    images[runtime.id] = runtime.image
                case RuntimeStatus.UPGRADING if runtime.previous_image is not None:
                    images[runtime.id] = runtime.previous_image
                    trials.append(Trial(runtime.id, runtime.image))
                case RuntimeStatus.UPGRADING:
                    images[runtime.id] = runtime.image
                    promoted.add(runtime.id)
                case RuntimeStatus.DELETING:
                    self._registry.forget(runtime.id)
                    rows.remove(runtime.id)
        self.images = images
        self.wanted = wanted
        self._delayed = delayed
        for runtime_id in images.keys() - stocks.keys():
            self._registry.configure(runtime_id, self._warm)
        for runtime_id in stocks.keys() - images.keys():
            self._registry.forget(runtime_id)
        # All runtimes are checked, because a Redis that has lost its last writes may have old workers again.
        self.rolling = {
            runtime_id
            for runtime_id in images
            if self._roll(runtime_id, workers, stocks.get(runtime_id, 0), is_crowded)
        }
        for runtime_id in promoted - self.rolling:
            if rollout.complete(runtime_id, images[runtime_id]):
                log.info("runtime %s is available: all its workers are of image %s", runtime_id, images[runtime_id])
        return trials

    def _roll(self, runtime_id: str, workers: Collection[WorkerRecord], stock: int, is_crowded: bool) -> bool:
        """Do one step of a rollout. Returns whether workers of older images can still get calls."""
        its_own = [worker for worker in workers if worker.runtime_id == runtime_id]
        image = self.images[runtime_id]
        is_failing = (runtime_id, image) in self._failed
        step = next_step(its_own, image, stock, is_crowded=is_crowded, is_failing=is_failing)
        self._registry.defer(runtime_id, step.defer)
        self._registry.drain(step.drain)
        return step.left > 0
