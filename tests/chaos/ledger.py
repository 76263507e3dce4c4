"""What callers were told about their executions."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Told:
    """What was told about one execution. Times are seconds of the monotonic clock.

    Attributes:
        id: the execution.
        function_id: its function.
        project_id: its project; empty: the admin's.
        key: the idempotency key, which is also the description; empty: it has none.
        text_size: the size of the text in its input; None: it has none.
        cancelled_at: when a caller was told that it is cancelled.
        deleted_at: when a caller was told that it is deleted.
        retried_at: before each retry that was acknowledged.
        unclear_retries: how many retries had no answer.
        final: fields with which it was shown as ended, and with which it must stay; None: it was not shown as ended.
    """

    id: str
    function_id: str
    project_id: str = ""
    key: str = ""
    text_size: int | None = None
    cancelled_at: float | None = None
    deleted_at: float | None = None
    retried_at: list[float] = field(default_factory=list)
    unclear_retries: int = 0
    final: dict[str, Any] | None = None


class Counts:
    """Counts what callers have met, for the report. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def all(self) -> dict[str, int]:
        """The counts, by name."""
        with self._lock:
            return dict(sorted(self._counts.items()))
