"""An example of each request and answer. Tests validate them against the schemas and report missing ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_FUNCTION = "0197a1c2-5b7e-7c41-8a53-6f1d20b9c7e4"
_RUNTIME = "0197a1c0-11d2-7f0a-9c35-2e84b1d6a503"
_EXECUTION = "0197a1c9-90ab-7cde-8f01-23456789abcd"
_WORKER = "6f1d20b9-c7e4-4a0b-9d3e-2c8f5b1a7e60"
_WEBHOOK = "0197a1d4-7a90-7e12-b6f8-90c3d5e7f214"
_NEW = {"project_id": "default", "created_at": "2026-03-02 09:15:00", "updated_at": None}
_PACKAGE = {"source": "package", "md5sum": "5eb63bbbe01eeed093cb22bb8f5acdc3"}
_LATEST = {"function_id": _FUNCTION, "function_version": 0, "function_alias": None}
_SHOWN_FUNCTION = {
    "id": _FUNCTION,
    "name": "hello",
    "description": "Greets whoever is named",
    "runtime_id": _RUNTIME,
    "entry": "main.main",
    "cpu": 100,
    "memory_size": 33554432,
    "timeout": 5,
    "isolation": None,
    "concurrency": None,
    "min_warm": 0,
    "max_attempts": 1,
    "backoff_s": 1.0,
    "max_age_s": None,
    "on_success": "https://hooks.example/done",
    "on_failure": None,
    "has_callback_secret": True,
    "count": 0,
    "latest_version": 0,
    **_NEW,
}
_CALLS = {"hit": 5210, "wait": 14, "assign": 7, "start": 2, "refused": 0}
_EVENT = {
    "id": "1772442900123-0",
    "time": "2026-03-02 09:15:00.123",
    "event": "started",
    "reason": "ready after 12 ms",
    "worker_id": _WORKER,
    "runtime_id": _RUNTIME,
    "function_id": None,
    "function_version": None,
    "execution_id": None,
    "process": None,
}

EXAMPLES: Mapping[str, Any] = {
    "AliasCreate": {"name": "stable", "function_id": _FUNCTION, "function_version": 1, "routing": {"2": 0.1}},
    "AliasUpdate": {"function_version": 2, "routing": {}},
    "AliasShown": {
        "id": "0197a1d0-3c44-7d0e-a1b2-c3d4e5f60718",
        "name": "stable",
        "function_id": _FUNCTION,
        "function_version": 1,
        "description": None,
        "routing": {"2": 0.1},
        **_NEW,
    },
    "ChangedExecutions": {"count": 3, "more": False},
    "RetriedExecutions": {"count": 3, "more": True, "left": 12},
    "ExecutionCreate": {"function_id": _FUNCTION, "input": {"name": "World"}},
    "ExecutionUpdate": {"status": "cancelled"},
    "SomeRetries": {"status": "dead", "function_id": _FUNCTION},
    "ExecutionShown": {
        "id": _EXECUTION,
        **_LATEST,
        "description": None,
        "input": '{"name": "World"}',
        "result": '{"duration": 0.012, "output": "Hello, World"}',
        "status": "success",
        "status_reason": None,
        "sync": True,
        "source": "api",
        "cold": "none",
        "queued_ms": 0.4,
        "run_ms": 12.3,
        "attempt": 1,
        "webhook_id": None,
        "job_id": None,
        "request_id": "req-0197a1d4-6f4a-4d0e-9c1b-0a1b2c3d4e5f",
        **_NEW,
        "updated_at": "2026-03-02 09:15:00",
    },
    "VersionCreate": {"description": "The one before the winter"},
    "VersionShown": {
        "id": "0197a1cc-0f1e-7d2c-bb3a-495867768594",
        "function_id": _FUNCTION,
        "version_number": 1,
        "description": "The one before the winter",
        "count": 0,
        **_NEW,
    },
    "ScaleUp": {"count": 2},
    "ScaleDown": {"count": 1},
    "WorkerShown": {"function_id": _FUNCTION, "function_version": 0, "worker_name": "w-6f1d20b9c7e4"},
    "FunctionCreate": {
        "name": "hello",
        "description": "Greets whoever is named",
        "code": {"source": "image", "image": "registry.example/hello:1"},
        "timeout": 5,
        "on_success": "https://hooks.example/done",
        "callback_secret": "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
    },
    "FunctionUpdate": {"description": "Greets whoever is named", "timeout": 10},
    "FunctionShown": _SHOWN_FUNCTION | {"code": json.dumps(_PACKAGE)},
    "FunctionMade": _SHOWN_FUNCTION | {"code": _PACKAGE},
    "JobCreate": {
        "name": "every night",
        "function_id": _FUNCTION,
        "function_input": {"name": "World"},
        "pattern": "30 2 * * *",
        "count": 10,
    },
    "JobUpdate": {"status": "paused"},
    "JobShown": {
        "id": "0197a1d8-55aa-7b66-8c77-d88e99f00a11",
        "name": "every night",
        **_LATEST,
        "function_input": '{"name": "World"}',
        "pattern": "30 2 * * *",
        "count": 10,
        "status": "running",
        "first_execution_time": "2026-03-03 02:30:00",
        "next_execution_time": "2026-03-03 02:30:00",
        "misfire": "run_once",
        "overlap": "allow",
        "timezone": "UTC",
        **_NEW,
    },
    "RuntimeCreate": {"image": "python3", "name": "Python 3", "description": "With the standard library"},
    "RuntimeUpdate": {"image": "python3-new"},
    "RuntimeShown": {
        "id": _RUNTIME,
        "name": "Python 3",
        "description": "With the standard library",
        "image": "python3",
        "is_public": True,
        "trusted": True,
        "status": "available",
        "status_reason": None,
        "isolation": "warm",
        **_NEW,
    },
    "PoolNumbersShown": {
        "manager": "host-1:4211:6d1f:0c5e-4026531840",
        "host": {
            "isolation": "zygote",
            "missing": [{"feature": "cpu", "note": "a function's `cpu` has no effect"}],
            "server": None,
        },
        "capacity": {"max_workers": 48, "function_concurrency": 32, "project_concurrency": 40, "start_ms": 11.4},
        "workers": {"total": 6, "leased": 1, "draining": 0},
        "demand": {"waiting_calls": 0, "targets_with_workers": 2, "processes": 2, "unrecorded_losses": 0},
        "calls": _CALLS,
        "runtimes": [
            {
                "id": _RUNTIME,
                "stock": 3,
                "workers": {"starting": 0, "warm": 3, "idle": 2, "leased": 1},
                "queues": {"escalated": 0, "blocked": 0},
                "first_calls": 7,
                "calls": _CALLS,
            }
        ],
        "runtimes_left_out": 0,
        "asynchronous_executions": {"accepted": 5120, "final": 4990, "in_flight": 3, "deleted": 127},
        "callbacks": {"delivered": 310, "retried": 4, "dropped": 1, "queued": 2},
    },
    "PoolWorkerShown": {
        "id": _WORKER,
        "state": "leased",
        "runtime_id": _RUNTIME,
        "image": "python3",
        "age_s": 81.2,
        "unused_s": None,
        "function_id": _FUNCTION,
        "function_version": 0,
        "project_id": "default",
        "kept": False,
        "recalled": False,
        "ends_after_call": False,
        "lease": {
            "process": "web:host-1:4188:5ab3",
            "execution_id": _EXECUTION,
            "accepted": True,
            "age_s": 0.8,
            "left_s": 62.2,
        },
    },
    "PoolQueueShown": {
        "runtime_id": _RUNTIME,
        "function_id": _FUNCTION,
        "function_version": 0,
        "project_id": "default",
        "ahead_of_calls": False,
        "waiting": 12,
        "processes": 2,
        "oldest_wait_ms": 214,
        "workers": 4,
        "state": "blocked",
        "blocked_by": {"limit": "version", "is": 4, "used": 4},
    },
    "PoolEventShown": _EVENT,
    "PoolExecutionShown": {
        "id": _EXECUTION,
        "project_id": "default",
        "function_id": _FUNCTION,
        "function_version": 0,
        "status": "success",
        "cold": "start",
        "queued_ms": 13.1,
        "explanation": "No worker was free, and the call waited for the start of one. It waited for 13 ms.",
        "process": None,
        "worker_id": None,
        "events": [_EVENT],
    },
    "PoolShown": {"name": _RUNTIME, "capacity": {"total": 5, "available": 3}},
    "QuotasUpdate": {"aliases": 50, "executions": -1},
    "QuotasShown": {
        "quotas": {
            "functions": {"limit": 1000, "used": 12},
            "package_bytes": {"limit": 10737418240, "used": 5242880},
            "versions": {"limit": 5000, "used": 20},
            "aliases": {"limit": 50, "used": 4},
            "webhooks": {"limit": 1000, "used": 2},
            "jobs": {"limit": 1000, "used": 1},
            "executions": {"limit": -1, "used": 4711},
            "kept_workers": {"limit": 8, "used": 2},
        }
    },
    "WebhookCreate": {
        "function_id": _FUNCTION,
        "description": "From the build server",
        "signature": {"scheme": "github", "secrets": ["0Gc4uFz7Lq2mT9xW"]},
        "rate_limit": {"per_minute": 600, "burst": 100},
    },
    "WebhookUpdate": {"function_alias": "stable", "enabled": False},
    "WebhookShown": {
        "id": _WEBHOOK,
        **_LATEST,
        "description": "From the build server",
        "webhook_url": f"https://functions.example/v1/webhooks/{_WEBHOOK}/invoke",
        "methods": ["POST"],
        "subpaths": False,
        "pass_request": False,
        "sync": False,
        "enabled": True,
        "cors": None,
        "signature": {"scheme": "github", "tolerance_s": 300, "secrets": 1},
        "rate_limit": {"per_minute": 600, "burst": 100},
        **_NEW,
    },
    "any body": {"ref": "refs/heads/main"},
    "WebhookAccepted": {"execution_id": _EXECUTION},
    "DeliveryShown": {
        "received_at": "2026-09-12 08:30:00",
        "delivery_id": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "result": "accepted",
        "reason": None,
        "execution_id": _EXECUTION,
    },
    "VersionsShown": {
        "versions": [
            {
                "status": "CURRENT",
                "id": "v1.0",
                "links": [{"href": "https://functions.example/v1", "target": "v1", "rel": "self"}],
            }
        ]
    },
    "HealthShown": {"status": "ok"},
}

FORMS: Mapping[str, Any] = {
    "FunctionCreate": {"name": "hello", "code": '{"source": "image", "image": "registry.example/hello:1"}'},
    "FunctionUpdate": {"description": "Greets whoever is named", "timeout": 10},
}
"""The same, as forms."""

UPLOADS: Mapping[str, Any] = {
    "FunctionCreate": {
        "name": "hello",
        "description": "Greets whoever is named",
        "runtime_id": _RUNTIME,
        "code": '{"source": "package"}',
        "entry": "main.main",
    },
    "FunctionUpdate": {"description": "Greets whoever is named", "entry": "main.other", "timeout": 10},
}
"""The same, as forms with a package, which is a file beside these fields."""

MESSAGES: Mapping[int, str] = {
    400: "Unknown field: colour.",
    401: "The token is not valid.",
    403: "Operation not allowed: runtime:create.",
    404: f"Function {_FUNCTION} not found.",
    405: f"Function {_FUNCTION} has no package to download.",
    409: "Runtime is not available: it is creating.",
    411: "An upload needs a Content-Length.",
    408: "The request body arrived too slowly: 12 bytes in 20 s. Beyond 20 s, send at least 1000 bytes a second.",
    413: "The request body is larger than 2097152 bytes.",
    415: "Content-Type must be application/json, not text/plain.",
    421: "engine.example is not known as a host of this service.",
    422: 'Idempotency-Key "order-7" was used for a request with other fields. Repeat that request as it was, or use a '
    "new key for this one.",
    429: "This webhook gets more deliveries than its rate limit allows.",
    500: "Internal error; the log has it under request id req-4b1f0c52-9a0e-4f0e-8a35-1d2c3b4a5968.",
    501: "This service can't store secrets: its setting SECRET_KEYS is not set. Ask its operator to set it, or leave "
    "the secret out.",
    502: "The object could not be read from Swift.",
    503: "No worker was free in time: this call waited for 10.0 s. All workers are busy. The function has not run. "
    "Try again.",
    504: "The function did not end within its timeout.",
}
"""What `faultstring` may say, by status."""
