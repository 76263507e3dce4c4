"""What the client can do and the service can't yet: each test says what it waits for."""

from __future__ import annotations

import pytest
import requests

from tests.client.conftest import Maker
from tests.client.driver import Client, output_of
from tests.integration.service import wait_until

pytestmark = [
    pytest.mark.xdist_group("client"),
    pytest.mark.skip(reason="calls of webhooks are not built yet"),
]


def test_webhook_is_invoked_by_its_url(client: Client, make: Maker) -> None:
    webhook = client.webhooks.create(make()["id"])
    answer = requests.post(webhook["webhook_url"], json={"name": "Ada"}, timeout=60)
    assert answer.status_code == 202

    def ended() -> bool:
        return bool(client.function_executions.get(answer.json()["execution_id"])["status"] == "success")

    wait_until("the execution has ended", ended)
    assert output_of(client.function_executions.get(answer.json()["execution_id"])) == "Hello, Ada"
