"""How often the web process converts inputs and results to or from JSON (docs/architecture.md)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import orjson
import pytest
from falcon import testing

from qinling_falcon.api import create_app
from qinling_falcon.auth import noauth
from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.policy import Policy
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.invocation.idempotency import IdempotentCalls
from qinling_falcon.invocation.waits import Waits
from qinling_falcon.invocation.webhook_calls import WebhookCalls
from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas import strict_json
from tests.invocation.conftest import OWNER, House
from tests.support.scripted_worker import succeeds

INPUT, RESULT = "the input", "the result"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the input and the result were converted."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        convert = getattr(owner, name)

        def counting(value: Any, *args: Any, **options: Any) -> Any:
            text = str(value)
            counted.update(one for one in (INPUT, RESULT) if one in text)
            return convert(value, *args, **options)

        monkeypatch.setattr(owner, name, counting)

    for module in (json, orjson):
        count(module, "loads")
        count(module, "dumps")
    count(strict_json._decoder, "decode")
    return counted


@pytest.mark.parametrize(
    ("given", "count"),
    [({"a": INPUT}, 3), (INPUT, 2), ({"a": INPUT * 3000}, 2)],
    ids=["an object: parsed, written as text and into the journal", "a text: not written as text", "large: no journal"],
)
def test_an_input_and_a_result_are_converted_no_more_often_than_documented(
    house: House, monkeypatch: pytest.MonkeyPatch, conversions: Counter[str], given: Any, count: int
) -> None:
    before_run: Counter[str] = Counter()
    answer = succeeds(RESULT)

    def run(connection: Any) -> bytes | None:
        before_run.update(conversions)
        conversions.clear()
        return answer(connection)

    house.start(run)
    monkeypatch.setattr(noauth, "EVERYBODY", Identity(OWNER))
    policy = Policy(house.settings.policy_file)
    acceptance = Acceptance(house.resolver, house.pool.ready, ExecutionQuota(), house.settings)
    idempotent_calls = IdempotentCalls(house.engine, acceptance, house.pool, house.settings)
    webhook_calls = WebhookCalls(house.engine, acceptance, idempotent_calls, house.pool, house.settings)
    services = Services(
        house.settings, house.pool, house.engine, acceptance, idempotent_calls, webhook_calls,
        Waits(house.pool.watches), house.scaler, house.storage, policy, Alarms(queues.connect(house.settings)),
    )
    client = testing.TestClient(create_app(services), headers={"Host": "localhost:7070"})
    body = json.dumps({"function_id": house.function_id, "input": given})
    conversions.clear()

    response = client.simulate_post("/v1/executions", body=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 201, response.text
    assert before_run == {INPUT: count}
    assert conversions[RESULT] == 1, "the response is written"
    assert RESULT in response.text
