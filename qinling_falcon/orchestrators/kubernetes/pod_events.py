"""Makes the events of workers from the changes of their pods."""

from __future__ import annotations

from qinling_falcon.orchestrators.base import Happening, WorkerEvent
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.pods import Pod


class PodEvents:
    """The events since the last call of `take`.

    Attributes:
        being_deleted: the names of pods that this manager has deleted, until their objects are gone.
    """

    def __init__(self) -> None:
        self.being_deleted: set[str] = set()
        # By uid, pods that the cluster shows as spare again, with their workers. Its database was restored from a copy,
        # and the worker in the pod may still run a call.
        self._returned: dict[str, tuple[str, Pod]] = {}
        self._events: list[WorkerEvent] = []

    def take(self) -> list[WorkerEvent]:
        """The events, each one once."""
        events, self._events = self._events, []
        return events

    def note_change(self, before: Pod | None, after: Pod | None) -> None:
        """Note what a change of a pod means for its worker.

        Args:
            before: the pod before the change; None: it is new.
            after: the pod after the change; None: it was deleted.
        """
        if before is None:
            return
        if after is None or after.uid != before.uid:
            self._returned.pop(before.uid, None)
        if before.name in self.being_deleted:
            if after is None or after.uid != before.uid:
                self.being_deleted.discard(before.name)
            return
        if before.state != names.TAKEN:
            return
        if after is None or after.uid != before.uid:
            self.add(before, Happening.ENDED, "its pod was deleted")
        elif after.state != names.TAKEN:
            self._returned[before.uid] = before.worker_id, after
            self.add(before, Happening.FAILED, "the cluster shows its pod as one that was not taken")
        elif after.is_being_deleted and not before.is_being_deleted:
            self.add(before, Happening.FAILED, "its pod is being deleted")
        elif after.trouble is not None and after.trouble.is_final and before.trouble != after.trouble:
            self.add(before, Happening.FAILED, after.trouble.reason)
        elif before.serves and not after.serves and not after.is_being_deleted:
            self.add(before, Happening.FAILED, after.trouble.reason if after.trouble else "its pod is not ready")
        elif after.restarts > before.restarts:
            self.add(before, Happening.CHANGED, "its container was restarted")
        elif after.ip != before.ip:
            self.add(before, Happening.CHANGED, "its pod has another address")

    def find_returned(self, worker_id: str | None = None) -> list[Pod]:
        """The pods that were taken, and that the cluster shows as spare again. They must be deleted.

        Args:
            worker_id: only that of this worker.
        """
        return [pod for worker, pod in self._returned.values() if worker_id in (None, worker)]

    def was_returned(self, pod: Pod) -> bool:
        """Whether a spare pod was taken before."""
        return pod.uid in self._returned

    def add(self, pod: Pod, happening: Happening, reason: str) -> None:
        """Add an event."""
        self._events.append(WorkerEvent(pod.worker_id, happening, reason))
