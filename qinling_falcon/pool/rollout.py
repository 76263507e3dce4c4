"""A rollout: the workers of a runtime are replaced by workers of its new image, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qinling_falcon.pool.registry import WorkerRecord


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """What one step of a rollout does.

    Attributes:
        drain: the workers to drain.
        defer: warm workers of older images. Those of the new image are leased before them.
        left: the number of workers of older images that can still get calls after the step.
    """

    drain: list[str]
    defer: list[str]
    left: int


def next_step(
    workers: Iterable[WorkerRecord], image: str, stock: int, *, is_crowded: bool, is_failing: bool = False
) -> RolloutStep:
    """The next step of a runtime's rollout.

    These rules hold for the workers of older images:

    1. Workers that are starting drain at once.
    2. The others drain one after another, the next one when the last one is gone. While the stock is full, warm ones
       drain first, then the least recently used idle one, then as many leased ones as there are warm workers to replace
       them. So a rollout takes at most one worker from the stock.
    3. If the stock is short because there are `max_workers` workers, and no worker is starting, an old worker drains to
       make room. Warm ones come last then.

    Args:
        workers: all workers of the runtime.
        image: the image from which its workers are made now.
        stock: the number of warm workers that it keeps.
        is_crowded: whether there are `max_workers` workers.
        is_failing: whether the last start from the image failed. Then only workers that are starting drain.
    """
    everyone = sorted(workers, key=lambda one: (one.granted_ms, one.worker_id))
    old: dict[str, list[str]] = {"starting": [], "warm": [], "idle": [], "leased": []}
    for worker in everyone:
        if worker.image != image and worker.may_get_calls:
            old[worker.state].append(worker.worker_id)
    warm = sum(worker.state == "warm" for worker in everyone)
    is_ending = any(worker.state == "draining" and worker.has_served for worker in everyone)
    is_starting = any(worker.state == "starting" and worker.image == image for worker in everyone)
    drain = list(old["starting"])
    serving = len(old["warm"]) + len(old["idle"]) + len(old["leased"])
    is_full = warm >= stock
    if not is_ending and not is_failing and (is_full or (is_crowded and not is_starting)):
        for state in ("warm", "idle", "leased") if is_full else ("idle", "leased", "warm"):
            if old[state]:
                ended = old[state][: max(1, warm) if state == "leased" else 1]
                drain += ended
                serving -= len(ended)
                break
    return RolloutStep(drain, [worker for worker in old["warm"] if worker not in drain], serving)
