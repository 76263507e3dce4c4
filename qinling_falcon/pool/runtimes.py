"""What the pool manager does with runtimes: their status, and which image their workers are made from.

The row is the truth. A runtime is `creating` until a worker of it has answered
(`available`) or its image can't be used (`error`, with the reason). A new image
is `upgrading` until a worker made from it has answered; if none does, the old
one goes on serving. A runtime that is `deleting` ends its pool, then its row.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from qinling_falcon.models import runtime as rows
from qinling_falcon.models.runtime import Runtime, RuntimeStatus
from qinling_falcon.orchestrators.base import Orchestrator, UnknownImage
from qinling_falcon.pool.registry import Registry

log = logging.getLogger(__name__)

# So many failed starts in a row are the end of an image that was never seen to work.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """A new image of a runtime, to be tried with one worker before it takes over."""

    runtime_id: str
    image: str


class Runtimes:
    """Keeps the pools' configuration and the runtimes' status in step.

    Args:
        warm: workers that are kept ready for each runtime.
    """

    def __init__(self, registry: Registry, orchestrator: Orchestrator, warm: int):
        self._registry = registry
        self._orchestrator = orchestrator
        self._warm = warm
        self._failed: dict[str, tuple[int, str]] = {}
        self._proved: set[tuple[str, str]] = set()
        self.images: dict[str, str] = {}

    def reconcile(self, pools: Collection[str]) -> list[Trial]:
        """Compare the rows with the runtimes that have a pool, and act on the differences.

        `images` names, afterwards, what the workers of each pool are to be made from.

        Args:
            pools: ids of the runtimes that have a pool.

        Returns:
            Images to be tried; `finish` says how that went.
        """
        trials = []
        images = {}
        for runtime in rows.everything():
            match runtime.status:
                case RuntimeStatus.CREATING:
                    if self._create(runtime, pools):
                        images[runtime.id] = runtime.image
                case RuntimeStatus.AVAILABLE:
                    images[runtime.id] = runtime.image
                    self._open(runtime.id, self._warm, pools)
                case RuntimeStatus.UPGRADING:
                    images[runtime.id] = runtime.previous_image or runtime.image
                    self._open(runtime.id, self._warm, pools)
                    trials.append(Trial(runtime.id, runtime.image))
                case RuntimeStatus.DELETING:
                    self._proved = {proof for proof in self._proved if proof[0] != runtime.id}
                    self._registry.forget(runtime.id)
                    rows.remove(runtime.id)
        self.images = images
        for runtime_id in set(pools) - images.keys():
            self._registry.forget(runtime_id)
        return trials

    def start_failed(self, runtime_id: str, reason: str) -> int:
        """A worker of the runtime did not start; how many in a row that makes."""
        failures = self._failed.get(runtime_id, (0, ""))[0] + 1
        self._failed[runtime_id] = (failures, reason)
        return failures

    def started(self, runtime_id: str, image: str) -> None:
        """A worker of the runtime, made from this image, has answered."""
        self._failed.pop(runtime_id, None)
        self._proved.add((runtime_id, image))

    def finish(self, trial: Trial, failure: str | None) -> bool:
        """End the trial of an image; whether the new image has taken over."""
        if not rows.settle(trial.runtime_id, trial.image, failure=failure) or failure:
            return False
        # Its workers of the old image end, each after its call; the new ones serve who waits meanwhile.
        self.images[trial.runtime_id] = trial.image
        self._registry.forget(trial.runtime_id)
        self._registry.configure(trial.runtime_id, self._warm)
        return True

    def _create(self, runtime: Runtime, pools: Collection[str]) -> bool:
        """Whether workers of a runtime that never had one may be started."""
        try:
            self._orchestrator.check(runtime.image)
        except UnknownImage as error:
            self._give_up(runtime, str(error))
            return False
        failures, reason = self._failed.get(runtime.id, (0, ""))
        if failures >= _TRIES:
            self._give_up(runtime, reason)
            return False
        self._open(runtime.id, max(1, self._warm), pools)
        if (runtime.id, runtime.image) in self._proved and rows.settle(runtime.id, runtime.image):
            log.info("runtime %s is available", runtime.id)
            self._registry.configure(runtime.id, self._warm)
        return True

    def _give_up(self, runtime: Runtime, reason: str) -> None:
        log.warning("runtime %s can't be made: %s", runtime.id, reason)
        self._failed.pop(runtime.id, None)
        rows.settle(runtime.id, runtime.image, failure=reason)

    def _open(self, runtime_id: str, warm: int, pools: Collection[str]) -> None:
        if runtime_id not in pools:
            self._registry.configure(runtime_id, warm)
