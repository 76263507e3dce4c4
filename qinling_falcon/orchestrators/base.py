"""The seam between the warm pool and whatever makes its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class UnknownImage(Exception):
    """No worker can be made from this image; the message says why."""


class StartFailed(Exception):
    """A worker did not become ready; the message says why."""


@dataclass(frozen=True, slots=True)
class StartedWorker:
    """A worker that answers.

    Attributes:
        worker_id: the id that the caller chose.
        address: `host:port` of its HTTP server.
        secret: what its `X-Worker-Secret` header must hold.
    """

    worker_id: str
    address: str
    secret: str


class Orchestrator(Protocol):
    """Makes, watches and destroys workers. All calls come from one process, its main thread.

    Attributes:
        concurrent_starts: how many starts may run at once.
    """

    concurrent_starts: int

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no worker can be made from `image`."""

    def start(self, worker_id: str, image: str) -> StartedWorker:
        """Make a worker and wait (cooperatively) until it answers.

        Raises:
            UnknownImage: as `check`.
            StartFailed: it ended or did not answer in time; nothing of it is left.
        """

    def destroy(self, worker_id: str) -> None:
        """End a worker with everything in it, and wait until it is gone. Unknown ids are no error."""

    def exited(self) -> list[str]:
        """Ids of workers that ended by themselves since the last call; each is named once, nothing of it is left."""

    def workers(self) -> list[str]:
        """Ids of the live workers that this orchestrator has started."""

    def close(self) -> None:
        """End all workers."""
