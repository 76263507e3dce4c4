"""What the pool manager does with runtimes: their status, and which image their workers are made from.

The row is the truth. A rollout has these steps (the columns are in `models/rollout.py`):

1. Trial. The image of a runtime that is `creating`, or `upgrading` with a previous image, is on trial until one worker
   made from it has answered. Until then, workers are made from the previous image.
2. Promotion. Workers are made from the new image, and those of the old one are replaced, one after another, in every
   pass: the workers themselves say what they were made from. The runtime is `upgrading` until none of the old ones can
   get a call.
3. Abort. The rollout is aborted, in any of these steps, when three starts from the new image have failed in a row, or
   at once if the orchestrator doesn't know the image. The previous image serves on, and the row has the reason. A new
   runtime ends in `error`. While starts fail, no old worker is replaced, so that the old ones serve on meanwhile.

When a rollout is complete, the previous image is forgotten. If workers can't be made from the image later, the manager
tries again and again, and the calls wait for that.

A runtime that is `deleting` ends its pool, then its row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gevent.lock import BoundedSemaphore

from qinling_falcon.models import rollout
from qinling_falcon.models import runtime as rows
from qinling_falcon.models.runtime import RuntimeStatus
from qinling_falcon.orchestrators.base import StartFailed, UnknownImage
from qinling_falcon.pool.registry import Registry, WorkerRecord
from qinling_falcon.pool.rollout import next_step

log = logging.getLogger(__name__)

# So many failed starts in a row abort a rollout.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """An image that one worker has to prove before the runtime uses it."""

    runtime_id: str
    image: str


class Runtimes:
    """Keeps the pools' configuration and the runtimes' status in step.

    Attributes:
        images: what the workers of each runtime that has a pool are made from.
        rolling: runtimes whose workers are being replaced.

    Args:
        warm: workers that are kept ready for each runtime.
    """

    def __init__(self, registry: Registry, warm: int):
        self._registry = registry
        self._warm = warm
        self._failed: dict[tuple[str, str], int] = {}
        # A trial that ends while rows are being read would be undone by what was read before.
        self._comparing = BoundedSemaphore()
        self.images: dict[str, str] = {}
        self.rolling: set[str] = set()

    def reconcile(
        self, stocks: Mapping[str, int], workers: Collection[WorkerRecord], *, is_crowded: bool
    ) -> list[Trial]:
        """Compare the rows with the runtimes that have a pool, and act on the differences.

        Args:
            stocks: how many warm workers each runtime that has a pool keeps.
            workers: all workers that the pool knows.
            is_crowded: whether these are `max_workers`.

        Returns:
            Images that are on trial; `promote` or `start_failed` ends that.
        """
        with self._comparing:
            return self._compare(stocks, workers, is_crowded)

    def start_failed(self, runtime_id: str, image: str, error: UnknownImage | StartFailed) -> int:
        """A worker of the runtime did not start from the image. This may abort a trial or a rollout.

        Returns:
            How many starts have failed in a row.

        Raises:
            Unavailable: the database is away. The next failure aborts it.
        """
        failures = self._failed[runtime_id, image] = self._failed.get((runtime_id, image), 0) + 1
        if failures >= _TRIES or isinstance(error, UnknownImage):
            with self._comparing:
                if rollout.abort(runtime_id, image, str(error)):
                    log.warning("runtime %s does not get image %s: %s", runtime_id, image, error)
                    del self._failed[runtime_id, image]
        return failures

    def started(self, runtime_id: str, image: str) -> None:
        """A worker of the runtime, made from the image, has answered."""
        self._failed.pop((runtime_id, image), None)

    def promote(self, trial: Trial) -> bool:
        """A worker made from the image has answered; whether the runtime uses it from now on."""
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
        for runtime in rows.everything():
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
        for runtime_id in images.keys() - stocks.keys():
            self._registry.configure(runtime_id, self._warm)
        for runtime_id in stocks.keys() - images.keys():
            self._registry.forget(runtime_id)
        # For all of them: a Redis that came back without its last writes may hold an old worker that was ending.
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
        """Go one step on in a rollout. Returns whether some workers of older images may get a call yet."""
        its_own = [worker for worker in workers if worker.runtime_id == runtime_id]
        image = self.images[runtime_id]
        is_failing = (runtime_id, image) in self._failed
        step = next_step(its_own, image, stock, is_crowded=is_crowded, is_failing=is_failing)
        self._registry.defer(runtime_id, step.defer)
        self._registry.drain(step.drain)
        return step.left > 0
