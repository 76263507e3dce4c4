"""All attempts. To add one, add a row to the file of its kind, or a new file that is named here."""

from __future__ import annotations

from tests.escape.attempt import Attempt
from tests.escape.attempts import files, frames, idle, keyrings, memory, neighbours, per_call, processes, system_calls

ATTEMPTS: dict[str, Attempt] = {
    attempt.name: attempt
    for attempts in (
        system_calls.ATTEMPTS, keyrings.ATTEMPTS, memory.ATTEMPTS, processes.ATTEMPTS, files.ATTEMPTS,
        neighbours.ATTEMPTS, per_call.ATTEMPTS, frames.ATTEMPTS, idle.ATTEMPTS,
    )
    for attempt in attempts
}  # fmt: skip
