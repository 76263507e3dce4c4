"""What the pool manager does with runtimes: their status, and which image their workers are made from.

The row is the truth. The image of a runtime that is `creating` or `upgrading` is
on trial until one worker made from it has answered; if none does, a new runtime
ends in `error` with the reason, an old one goes on with the image it had. A
runtime that is `deleting` ends its pool, then its row.
"""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass

from qinling_falcon.models import runtime as rows
from qinling_falcon.models.runtime import RuntimeStatus
from qinling_falcon.orchestrators.base import StartFailed, UnknownImage
from qinling_falcon.pool.registry import Registry

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

    Args:
        warm: workers that are kept ready for each runtime.
    """

    def __init__(self, registry: Registry, warm: int):
        self._registry = registry
        self._warm = warm
        self._failed: dict[str, int] = {}
        self.images: dict[str, str] = {}

    def reconcile(self, pools: Set[str]) -> list[Trial]:
        """Compare the rows with the runtimes that have a pool, and act on the differences.

        `images` names, afterwards, what the workers of each pool are to be made from.

        Args:
            pools: ids of the runtimes that have a pool.

        Returns:
            Images that are on trial; `proved` or `refuted` ends that.
        """
        trials = []
        images = {}
        for runtime in rows.everything():
            match runtime.status:
                case RuntimeStatus.CREATING:
                    trials.append(Trial(runtime.id, runtime.image))
                case RuntimeStatus.AVAILABLE:
                    images[runtime.id] = runtime.image
                case RuntimeStatus.UPGRADING:
                    images[runtime.id] = runtime.previous_image or runtime.image
                    trials.append(Trial(runtime.id, runtime.image))
                case RuntimeStatus.DELETING:
                    self._registry.forget(runtime.id)
                    rows.remove(runtime.id)
        self.images = images
        for runtime_id in images.keys() - pools:
            self._registry.configure(runtime_id, self._warm)
        for runtime_id in pools - images.keys():
            self._registry.forget(runtime_id)
        return trials

    def start_failed(self, runtime_id: str) -> int:
        """A worker of the runtime did not start; how many in a row that makes."""
        self._failed[runtime_id] = self._failed.get(runtime_id, 0) + 1
        return self._failed[runtime_id]

    def started(self, runtime_id: str) -> None:
        """A worker of the runtime has answered."""
        self._failed.pop(runtime_id, None)

    def proved(self, trial: Trial) -> bool:
        """A worker made from the image has answered; whether the runtime uses it from now on."""
        self.started(trial.runtime_id)
        if not rows.settle(trial.runtime_id, trial.image):
            return False
        log.info("runtime %s is available with image %s", trial.runtime_id, trial.image)
        # Workers of an older image end, each after its call; calls that wait are served by the new ones.
        self.images[trial.runtime_id] = trial.image
        self._registry.forget(trial.runtime_id)
        self._registry.configure(trial.runtime_id, self._warm)
        return True

    def refuted(self, trial: Trial, error: UnknownImage | StartFailed) -> None:
        """A worker could not be made from the image: the trial ends, at once or when that was seen often enough."""
        if self.start_failed(trial.runtime_id) < _TRIES and not isinstance(error, UnknownImage):
            return
        self._failed.pop(trial.runtime_id, None)
        rows.settle(trial.runtime_id, trial.image, failure=str(error))
