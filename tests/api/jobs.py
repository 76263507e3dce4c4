"""Requests about jobs, for tests."""

from __future__ import annotations

import datetime
import re
import uuid
from typing import Any

from falcon import testing

from tests.api.client import Client

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
NOBODY = str(uuid.uuid4())


def make(client: Client, function_id: str, **fields: Any) -> dict[str, Any]:
    body = {"function_id": function_id, "pattern": "0 0 1 1 *"} | fields
    answer = client.simulate_post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json)


def put(client: Client, row: dict[str, Any], **fields: Any) -> testing.Result:
    return client.simulate_put(f"/v1/jobs/{row['id']}", json=fields)


def show(client: Client, row: dict[str, Any]) -> dict[str, Any]:
    return dict(client.simulate_get(f"/v1/jobs/{row['id']}").json)


def at(**ahead: float) -> str:
    """A time so far ahead of now, in UTC, as answers show it."""
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(**ahead)).strftime("%Y-%m-%d %H:%M:%S")
