"""Deliveries to webhooks: what is accepted, what the function gets, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.invocation.engine import Engine
from qinling_falcon.models import database
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error

NOBODY = "0197a1c9-90ab-7cde-8f01-23456789abcd"
SECRET = "0Gc4uFz7Lq2mT9xW"


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


@pytest.fixture
def make(client: Client, function_id: str) -> Callable[..., str]:
    """Makes a webhook, and returns the path that invokes it."""

    def made(**fields: Any) -> str:
        answer = client.simulate_post("/v1/webhooks", json={"function_id": function_id, **fields})
        assert answer.status_code == 201, answer.text
        return f"/v1/webhooks/{answer.json['id']}/invoke"

    return made


def put(client: Client, path: str, **fields: Any) -> dict[str, Any]:
    answer = client.simulate_put(path.removesuffix("/invoke"), json=fields)
    assert answer.status_code == 202, answer.text
    return dict(answer.json)


def execution_of(client: Client, answer: testing.Result) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"http://localhost:7070/v1/executions/{answer.json['execution_id']}"
    return dict(client.simulate_get(f"/v1/executions/{answer.json['execution_id']}").json)


def deliveries(client: Client, services: Services, path: str) -> list[dict[str, Any]]:
    services.pool.deliveries.flush()
    answer = client.simulate_get(path.replace("/invoke", "/deliveries"))
    assert answer.status_code == 200, answer.text
    return list(answer.json)


def signed(body: bytes, secret: str = SECRET, **headers: str) -> dict[str, Any]:
    """A delivery as GitHub sends it."""
    digest = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    return {"body": body, "headers": {"X-Hub-Signature-256": f"sha256={digest}", **headers}}


def test_a_delivery_is_accepted_and_its_execution_names_the_webhook(
    client: Client, make: Callable[..., str], function_id: str
) -> None:
    path = make()
    webhook_id = path.split("/")[3]
    answer = client.simulate_post(path, json={"name": "Ada"}, query_string="colour=red")
    execution = execution_of(client, answer)
    assert json.loads(execution["input"]) == {"name": "Ada", "colour": "red"}
    expected = {
        "function_id": function_id, "status": "running", "sync": False, "source": "webhook", "webhook_id": webhook_id,
        "description": f"Created by Webhook {webhook_id}", "project_id": "default",
        "request_id": answer.headers["x-request-id"],
    }  # fmt: skip
    assert {name: execution[name] for name in expected} == expected
