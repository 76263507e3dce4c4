"""Calls of tests that must fail, and their messages."""

from __future__ import annotations

from tests.runtime.client import Answer, Worker

Code = str | dict[str, str | bytes] | bytes

FINE = "def main(): return 'fine'\n"


def failure(worker: Worker, code: Code, given: str | None = None, entry: str = "main.main") -> Answer:
    """Load a function and call it once. Returns the answer, which must be a failure."""
    assert worker.load(code, entry=entry)[0] == 200
    answer = worker.execute(given)
    assert answer.status == "failed"
    return answer


def not_loaded(worker: Worker, code: Code, entry: str) -> str:
    """The reason why an entry can't be loaded. The answer's message and output must be the same."""
    answer = failure(worker, code, entry=entry)
    begin = f"Function {entry!r} can't be loaded. "
    assert (answer.reason, answer.message) == ("load", answer.output)
    assert answer.output.startswith(begin)
    return str(answer.output).removeprefix(begin)
