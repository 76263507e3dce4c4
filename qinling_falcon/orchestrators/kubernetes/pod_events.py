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
        self._events: list[WorkerEvent] = []

    def take(self) -> list[WorkerEvent]:
        """The events, each one once."""
        events, self._events = self._events, []
        return events

    def note_change(self, before: Pod | None, after: Pod | None) -> None:
        """Note what a change of a pod means for its worker. None: there is no such pod."""
        if before is None:
            return
        if before.name in self.being_deleted:
            if after is None or after.uid != before.uid:
                self.being_deleted.discard(before.name)
            return
        if before.state != names.TAKEN:
            return
        if after is None or after.uid != before.uid:
            self.tell(before, Happening.ENDED, "its pod was deleted")
        elif after.is_ending and not before.is_ending:
            self.tell(before, Happening.FAILED, "its pod is being deleted")
        elif after.trouble is not None and after.trouble.is_final and before.trouble != after.trouble:
            self.tell(before, Happening.FAILED, after.trouble.reason)
        elif before.serves and not after.serves and not after.is_ending:
            self.tell(before, Happening.FAILED, after.trouble.reason if after.trouble else "its pod is not ready")
        elif after.restarts > before.restarts:
            self.tell(before, Happening.CHANGED, "its container was restarted")
        elif after.ip != before.ip:
            self.tell(before, Happening.CHANGED, "its pod has another address")

    def tell(self, pod: Pod, happening: Happening, reason: str) -> None:
        """Add an event."""
        self._events.append(WorkerEvent(pod.worker_id, happening, reason))
