"""What answers look like: every field of each resource, and what its value may be.

The fields above the comment in a shape are the reference's; those below it are this service's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
Shape = Mapping[str, Check]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_MD5 = re.compile(r"[0-9a-f]{32}")


def text(value: Any) -> bool:
    return isinstance(value, str)


def texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(text, value))


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def a_uuid(value: Any) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def moment(value: Any) -> bool:
    """Of the form `2019-06-06 15:33:23`: no zone, no fraction of a second."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def code(value: Any) -> bool:
    """`code` as an object, with what belongs to its source and nothing else."""
    if not isinstance(value, dict):
        return False
    rest = {name: member for name, member in value.items() if name != "source"}
    if value.get("source") == "package":
        return rest.keys() == {"md5sum"} and _MD5.fullmatch(rest["md5sum"]) is not None
    return value.get("source") == "image" and rest.keys() == {"image"} and text(rest["image"])


def code_text(value: Any) -> bool:
    """The same as JSON text: a string that holds JSON."""
    return text(value) and code(json.loads(value))


def result(value: Any) -> bool:
    """JSON text of an object with `duration`, in seconds with at most three digits, and `output`."""
    if not text(value):
        return False
    parsed = json.loads(value)
    took = parsed.get("duration")
    return parsed.keys() == {"duration", "output"} and number(took) and took >= 0 and round(took, 3) == took


def optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def one_of(*values: Any) -> Check:
    return lambda value: value in values


def url(value: Any) -> bool:
    return text(value) and value.startswith("http://")


_STAMPS: Shape = {"project_id": text, "created_at": moment, "updated_at": optional(moment)}

RUNTIME: Shape = {
    "id": a_uuid,
    "name": optional(text),
    "image": text,
    "description": optional(text),
    "is_public": flag,
    "trusted": flag,
    "status": one_of("creating", "available", "upgrading", "error", "deleting"),
    **_STAMPS,
    # beyond the reference
    "status_reason": optional(text),
    "isolation": one_of("warm", "per_call"),
}

FUNCTION_MADE: Shape = {
    "id": a_uuid,
    "name": optional(text),
    "description": optional(text),
    "runtime_id": optional(a_uuid),
    "code": code,
    "entry": optional(text),
    "cpu": whole,
    "memory_size": whole,
    "timeout": whole,
    "count": whole,
    "latest_version": whole,
    **_STAMPS,
    # beyond the reference
    "isolation": optional(one_of("warm", "per_call")),
    "concurrency": optional(whole),
    "min_warm": whole,
    "max_attempts": whole,
    "backoff_s": number,
    "max_age_s": optional(whole),
    "on_success": optional(text),
    "on_failure": optional(text),
    "has_callback_secret": flag,
}

FUNCTION: Shape = {**FUNCTION_MADE, "code": code_text}

QUOTA: Shape = {"limit": whole, "used": whole}

WORKER: Shape = {"function_id": a_uuid, "function_version": whole, "worker_name": text}

VERSION: Shape = {
    "id": a_uuid,
    "function_id": a_uuid,
    "version_number": whole,
    "description": optional(text),
    "count": whole,
    **_STAMPS,
}

EXECUTION: Shape = {
    "id": a_uuid,
    "function_id": a_uuid,
    "function_version": whole,
    "description": optional(text),
    "input": optional(text),
    "result": result,
    "status": one_of("success", "failed", "error"),
    "sync": flag,
    **_STAMPS,
    "updated_at": moment,
    # beyond the reference
    "function_alias": optional(text),
    "source": one_of("api"),
    "cold": one_of("none", "assign", "start"),
    "queued_ms": number,
    "run_ms": number,
    "status_reason": optional(text),
    "attempt": whole,
    "webhook_id": optional(a_uuid),
    "job_id": optional(a_uuid),
    "request_id": text,
}

ALIAS: Shape = {
    "name": text,
    "function_id": a_uuid,
    "function_version": whole,
    "description": optional(text),
    **_STAMPS,
    # beyond the reference
    "id": a_uuid,
    "routing": optional(lambda value: isinstance(value, dict)),
}

WEBHOOK: Shape = {
    "id": a_uuid,
    "function_id": optional(a_uuid),
    "function_version": optional(whole),
    "description": optional(text),
    "webhook_url": url,
    **_STAMPS,
    # beyond the reference's samples, not beyond its text
    "function_alias": optional(text),
    # the service's own
    "methods": texts,
    "subpaths": flag,
    "pass_request": flag,
    "sync": flag,
    "enabled": flag,
    "cors": optional(texts),
    "signature": optional(lambda value: value.keys() == {"scheme", "tolerance_s", "secrets"}),
    "rate_limit": optional(lambda value: value.keys() == {"per_minute", "burst"}),
}

DELIVERY: Shape = {
    "received_at": moment,
    "delivery_id": optional(text),
    "result": text,
    "reason": optional(text),
    "execution_id": optional(a_uuid),
}

JOB: Shape = {
    "id": a_uuid,
    "name": optional(text),
    "function_id": optional(a_uuid),
    "function_version": optional(whole),
    "function_input": optional(text),
    "pattern": optional(text),
    "count": optional(whole),
    "status": one_of("running", "paused", "cancelled", "done"),
    "first_execution_time": moment,
    "next_execution_time": moment,
    **_STAMPS,
    # beyond the reference's samples, not beyond its text
    "function_alias": optional(text),
    # beyond the reference
    "misfire": one_of("run_once", "skip"),
    "overlap": one_of("allow", "forbid"),
    "timezone": text,
}


def check(shape: Shape, row: Any) -> None:
    """`row` has the fields of `shape`, no other ones, and in each of them what it may hold."""
    assert isinstance(row, dict), row
    assert row.keys() == shape.keys(), row.keys() ^ shape.keys()
    wrong = {name: value for name, value in row.items() if not shape[name](value)}
    assert not wrong, wrong


def check_all(shape: Shape, rows: Any) -> None:
    """`rows` is a bare array of them."""
    assert isinstance(rows, list), rows
    for row in rows:
        check(shape, row)
