"""A rollout: the workers of a runtime are replaced by workers of its new image, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qinling_falcon.pool.registry import WorkerRecord


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """What one step of a rollout does.

    Attributes:
        drain: workers that get no further call from now on.
        defer: warm workers of older images: those of the new image are leased before them.
        left: how many workers of older images may get a call yet, after the step.
    """

    drain: list[str]
    defer: list[str]
    left: int


def next_step(
    workers: Iterable[WorkerRecord], image: str, stock: int, *, is_crowded: bool, is_failing: bool = False
) -> RolloutStep:
    """The next step of a runtime's rollout.

    A worker of an older image that is starting never serves. Those that serve end one after another, the next one when
    the one before is gone. While the stock is full, warm ones end first, then the least recently used idle one, then as
    many leased ones as there are warm workers to stand in for them. So a rollout takes at most one worker from the
    stock. Where `max_workers` keeps the stock short and no worker is on its way, an old worker makes room, a warm one
    last.

    Args:
        workers: all workers of the runtime.
        image: what its workers are made from now.
        stock: how many warm workers it keeps.
        is_crowded: whether there are `max_workers` workers.
        is_failing: whether the last start from the image failed. Then no worker that serves ends.
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
