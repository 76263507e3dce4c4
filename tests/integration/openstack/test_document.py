"""Schemathesis over HTTP, with a real token of a real Keystone: short; tests/openapi does more, in process."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from tests.integration.openstack.cloud import Cloud
from tests.integration.service import package
from tests.openapi.campaign import Outcome, take
from tests.openapi.strategies import aim, register

# What is guarded and quick; calls of made-up functions would wait for workers.
_OPERATIONS = [
    "GET /v1/runtimes",
    "POST /v1/runtimes",
    "GET /v1/functions",
    "GET /v1/functions/{function_id}",
    "PUT /v1/functions/{function_id}",
    "GET /v1/functions/{function_id}/versions",
    "POST /v1/aliases",
    "GET /v1/executions",
    "POST /v1/webhooks",
    "GET /v1/jobs",
    "POST /v1/jobs",
]


def config(token: str) -> dict[str, Any]:
    checks = {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx"]}}
    return {
        "seed": 1,
        "workers": 1,
        "continue-on-failure": True,
        "max-failures": 100_000,
        "generation": {
            "max-examples": 3,
            "deterministic": True,
            "database": "none",
            "allow-x00": False,
            "no-shrink": True,
        },
        "checks": checks,
        "phases": {"coverage": {"enabled": False}, "stateful": {"enabled": False}},
        "auth": {"openapi": {"token": {"api_key": token}}},
    }


@pytest.fixture
def token(cloud: Cloud) -> str:
    return cloud.keystone.token("alice")


def test_what_is_made_up_is_answered_as_the_document_says_and_tokens_are_not_ignored(cloud: Cloud, token: str) -> None:
    runtime_id = cloud.service.runtime()
    form = {"name": "f", "runtime_id": runtime_id, "code": '{"source": "package"}'}
    files = {"package": ("f.zip", package(main="def main():\n    return 1\n"))}
    function_id = str(cloud.send("POST", "/v1/functions", token, data=form, files=files).json()["id"])
    register()
    outcome = Outcome()
    checked: set[str] = set()
    schema = schemathesis.openapi.from_url(
        f"{cloud.service.url}/openapi.json", config=schemathesis.Config.from_dict(config(token))
    )
    for operation in _OPERATIONS:
        method, path = operation.split(" ")
        assert method.lower() in schema.raw_schema["paths"][path]
    aim(schema, {"function_id": [function_id], "runtime_id": [runtime_id]})
    for event in from_schema(schema.include(name=_OPERATIONS)).execute():
        if isinstance(event, events.ScenarioFinished):
            take(outcome, event)
            checked |= {check.name for checks in event.recorder.checks.values() for check in checks}
        elif isinstance(event, events.NonFatalError):
            outcome.errors.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            outcome.errors.append(repr(event.exception))
    assert not outcome.failures, "\n\n".join(f"{key}: {said}" for key, said in outcome.failures.items())
    assert not outcome.errors
    assert {label for label, _ in outcome.statuses} == set(_OPERATIONS)
    assert ("GET /v1/functions/{function_id}", 200) in outcome.statuses
    assert "ignored_auth" in checked  # which sends requests again without a token, and with a wrong one
    assert ("POST /v1/runtimes", 201) not in outcome.statuses
    assert ("GET /v1/functions", 200) in outcome.statuses
