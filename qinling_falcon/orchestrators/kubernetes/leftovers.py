"""Finds pods that are labelled as workers, but can't be called. The pool does not know them, so it never deletes them.

Such a pod is left if its manager died before the pod was ready, if its node evicted it, or if the key of its secret is
no longer in `SECRET_KEYS`.
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
        """The pods that could not be called for the last 30 s, without those that are being deleted already.

        Args:
            pods: all pods of the installation.
            now: seconds of `time.monotonic`.
        """
        useless = [
            pod for pod in pods if pod.state == names.TAKEN and not pod.is_being_deleted and not self._is_worker(pod)
        ]
        self._since = {pod.uid: self._since.get(pod.uid, now) for pod in useless}
        return [pod for pod in useless if now >= self._since[pod.uid] + _AFTER_S]
