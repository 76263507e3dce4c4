"""Finds pods that were taken for the pool, but can't be workers of it, so that no manager would end them.

There are three ways to such a pod: its manager died before the pod was ready, its node evicted it, or `SECRET_KEYS` has
lost the key of its secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.pods import Pod

# A worker that is not ready for a moment is ended by the pool itself.
_AFTER_S = 30.0


class Leftovers:
    """Remembers since when pods can't be workers.

    Args:
        is_worker: whether a pod can be called.
    """

    def __init__(self, is_worker: Callable[[Pod], bool]):
        self._is_worker = is_worker
        self._since: dict[str, float] = {}

    def find(self, pods: Iterable[Pod], now: float) -> list[Pod]:
        """The pods that can't be workers for 30 s now. They are not being deleted yet.

        Args:
            pods: all pods of the installation.
            now: seconds of a clock that never steps.
        """
        useless = [
            pod for pod in pods if pod.state == names.TAKEN and not pod.is_ending and not self._is_worker(pod)
        ]
        self._since = {pod.uid: self._since.get(pod.uid, now) for pod in useless}
        return [pod for pod in useless if now >= self._since[pod.uid] + _AFTER_S]
