"""Sends calls with an `Idempotency-Key`, and looks at what they leave."""

from __future__ import annotations

from typing import Any

from qinling_falcon.models import database
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.models.tables import Execution
from tests.api.client import Client


def post(client: Client, key: str | None = "k", **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.simulate_post("/v1/executions", json=body, headers=headers)


def executions() -> list[Execution]:
    with database.reading():
        return list(Execution.select().order_by(Execution.id))


def change_keys(**values: Any) -> None:
    database.transact(lambda: IdempotencyKey.update(**values).execute())


def replays(answer: Any, first: Any) -> None:
    """An answer is that of the first request, marked as such."""
    assert (answer.status_code, answer.json) == (first.status_code, first.json)
    assert answer.headers["location"] == first.headers["location"]
    assert answer.headers["idempotent-replayed"] == "true"
