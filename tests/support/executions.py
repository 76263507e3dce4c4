"""The bodies of `/execute` and of its answer (runtimes/python3/README.md)."""

from __future__ import annotations

import json
from typing import Any


def request_body(
    token: object = 1, execution_id: str = "e", timeout_s: object = 10, given: str | None = None, **about: Any
) -> bytes:
    """The body of a request.

    Args:
        given: the input.
        about: members of the second line beside, or instead of, an empty `context`.
    """
    lines = [f"{token} {execution_id} {timeout_s}", json.dumps({"context": {}} | about)]
    return "\n".join(lines if given is None else [*lines, given]).encode()


def read_answer_body(body: bytes) -> Any:
    """The JSON of a worker's answer. One to `/execute` has `output`, read from its JSON, and `log` as well.

    Integers that Python refuses to read stay text.
    """
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    if not isinstance(head, dict) or "output_size" not in head:
        return head
    size = head.pop("output_size")
    output = json.loads(rest[:size], parse_int=lambda digits: int(digits) if len(digits) < 4000 else digits)
    return head | {"output": output, "log": rest[size:].decode()}


def answer_body(output: str = '"done"', log: str = "the log", **head: Any) -> bytes:
    """The body of an answer whose output is this JSON text."""
    data = output.encode()
    members = {"status": "success", "reason": None, "message": None, "duration_s": 0.001, "busy_s": 0.002}
    return json.dumps(members | {"output_size": len(data)} | head).encode() + b"\n" + data + log.encode()
