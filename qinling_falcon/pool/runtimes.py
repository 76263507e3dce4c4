"""What the pool manager does with runtimes: their status, and which image their workers are made from.

The row is the truth. The image of a runtime that is `creating`, or `upgrading` with
a previous image, is on trial until one worker made from it has answered; if none
does, a new runtime ends in `error` with the reason, an old one goes on with the
image it had. Once it has answered, the previous image is forgotten, and the
workers of the old one are replaced, one after another, in every pass: the workers
themselves say what they were made from. The runtime is `upgrading` until none of
the old ones can get a call. A runtime that is `deleting` ends its pool, then its row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gevent.lock import BoundedSemaphore

from qinling_falcon.models import runtime as rows
from qinling_falcon.models.runtime import RuntimeStatus
from qinling_falcon.orchestrators.base import StartFailed, UnknownImage
from qinling_falcon.pool.registry import Registry, WorkerRecord
from qinling_falcon.pool.rollout import next_step

log = logging.getLogger(__name__)

# So many failed starts in a row are the end of an image that was never seen to work.
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
            Images that are on trial; `proved` or `refuted` ends that.
        """
        with self._comparing:
            return self._compare(stocks, workers, is_crowded)

    def start_failed(self, runtime_id: str, image: str) -> int:
        """A worker of the runtime did not start from the image; how many in a row that makes."""
        self._failed[runtime_id, image] = self._failed.get((runtime_id, image), 0) + 1
        return self._failed[runtime_id, image]

    def started(self, runtime_id: str, image: str) -> None:
        """A worker of the runtime, made from the image, has answered."""
        self._failed.pop((runtime_id, image), None)

    def proved(self, trial: Trial) -> bool:
        """A worker made from the image has answered; whether the runtime uses it from now on."""
        self.started(trial.runtime_id, trial.image)
        with self._comparing:
            if not rows.settle(trial.runtime_id, trial.image):
                return False
            log.info("runtime %s has image %s from now on", trial.runtime_id, trial.image)
            self.images[trial.runtime_id] = trial.image
            self.rolling.add(trial.runtime_id)
            self._registry.configure(trial.runtime_id, self._warm)
        return True

    def refuted(self, trial: Trial, error: UnknownImage | StartFailed) -> None:
        """A worker could not be made from the image: the trial ends, at once or when that was seen often enough."""
        if self.start_failed(trial.runtime_id, trial.image) < _TRIES and not isinstance(error, UnknownImage):
            return
        self._failed.pop((trial.runtime_id, trial.image), None)
        with self._comparing:
            rows.settle(trial.runtime_id, trial.image, failure=str(error))

    def _compare(self, stocks: Mapping[str, int], workers: Collection[WorkerRecord], is_crowded: bool) -> list[Trial]:
        trials = []
        images = {}
        proved = set()
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
                    proved.add(runtime.id)
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
        for runtime_id in proved - self.rolling:
            if rows.rolled(runtime_id, images[runtime_id]):
                log.info("runtime %s is available: all its workers are of image %s", runtime_id, images[runtime_id])
        return trials

    def _roll(self, runtime_id: str, workers: Collection[WorkerRecord], stock: int, is_crowded: bool) -> bool:
        """Go one step on in a rollout. Returns whether some workers of older images may get a call yet."""
        its_own = [worker for worker in workers if worker.runtime_id == runtime_id]
        step = next_step(its_own, self.images[runtime_id], stock, is_crowded=is_crowded)
        self._registry.defer(runtime_id, step.defer)
        self._registry.drain(step.drain)
        return step.left > 0
