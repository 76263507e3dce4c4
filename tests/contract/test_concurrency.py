"""The concurrency of a function, from the API to the workers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.contract.service import User, error

pytestmark = pytest.mark.xdist_group("contract")

SPAN = (
    "import time\ndef main():\n    began = time.time()\n    time.sleep(0.05)\n    return [began, time.time()]\n"
)  # the clock of the machine, which all workers share


def spans(user: User, function_id: str, count: int) -> list[Any]:
    """When each of `count` calls, sent at once, began and ended."""

    def call(_: int) -> Any:
        body = {"function_id": function_id}
        answer = requests.post(f"{user.url}/v1/executions", json=body, headers=user.service.http.headers, timeout=60)
        assert (answer.status_code, answer.json()["status"]) == (201, "success"), answer.text
        return json.loads(answer.json()["result"])["output"]

    with ThreadPoolExecutor(count) as callers:
        return list(callers.map(call, range(count)))


def most_at_once(spans: list[Any]) -> int:
    return max(sum(other[0] <= began < other[1] for other in spans) for began, _ in spans)


def test_no_more_calls_run_at_once(user: User) -> None:
    function_id = user.function(SPAN, concurrency=2)

    found = spans(user, function_id, 40)

    assert (len(found), most_at_once(found)) == (40, 2)
    assert len(user.workers(function_id)) <= 2


def test_a_change_applies_to_the_next_calls(user: User) -> None:
    function_id = user.function(SPAN, concurrency=1)
    assert most_at_once(spans(user, function_id, 6)) == 1

    assert user.put(f"/v1/functions/{function_id}", concurrency=3).status_code == 200

    assert most_at_once(spans(user, function_id, 20)) <= 3


def test_a_wrong_limit(user: User) -> None:
    function_id = user.function(concurrency=2)

    error(user.put(f"/v1/functions/{function_id}", concurrency=0), 400, "from 1 to", field="concurrency")
    error(user.put(f"/v1/functions/{function_id}", min_warm=3), 400, "concurrency, which is 2", field="min_warm")
    assert user.put(f"/v1/functions/{function_id}", concurrency=None).json()["concurrency"] is None
