"""The quota and the retention of executions in a whole service, with two web processes and a pool manager."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.integration.service import Service, running_service, wait_until
from tests.servers.postgres import PostgresServer

KEPT = 8


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"quotas-{name}")) for name in ("sqlite", "postgresql")],
)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    url = ""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.create_database()
    with running_service(url, web_concurrency=2, executions_kept=KEPT) as running:
        yield running


@pytest.fixture(scope="module")
def function_id(service: Service) -> str:
    return service.function("def main():\n    print('ran')\n")


def test_many_requests_at_once_do_not_exceed_the_limit(service: Service, function_id: str) -> None:
    assert service.request("PUT", "/v1/quotas", json={"webhooks": 10}).status_code == 200

    def post(_: int) -> int:
        answer = requests.post(f"{service.url}/v1/webhooks", json={"function_id": function_id}, timeout=60)
        return answer.status_code

    with ThreadPoolExecutor(20) as threads:
        statuses = Counter(threads.map(post, range(60)))

    assert statuses == {201: 10, 403: 50}
    assert len(service.request("GET", "/v1/webhooks").json()) == 10


def call(service: Service, function_id: str, **given: object) -> requests.Response:
    """Send a call on a new connection, so that both web processes get calls."""
    body = {"function_id": function_id, "input": given}
    return requests.post(f"{service.url}/v1/executions", json=body, timeout=60)


def test_calls_over_the_quota_are_refused_before_they_run(service: Service, function_id: str) -> None:
    for _ in range(8):  # both processes know the project
        assert call(service, function_id).status_code == 201
    used = service.request("GET", "/v1/quotas").json()["quotas"]["executions"]["used"]
    assert service.request("PUT", "/v1/quotas", json={"executions": used + 5}).status_code == 200

    answers = [call(service, function_id) for _ in range(9)]

    assert [answer.status_code for answer in answers] == [201] * 5 + [403] * 4
    words = f"Quota exceeded for executions: limit {used + 5}, used {used + 5}."
    assert all(answer.json()["faultstring"].startswith(words) for answer in answers[5:])
    assert service.request("GET", f"/v1/functions/{function_id}").json()["count"] == used + 5
    gone = answers[0].json()["id"]
    assert service.request("DELETE", f"/v1/executions/{gone}").status_code == 204
    wait_until("there is room for one more", lambda: call(service, function_id).status_code == 201)
    assert service.request("PUT", "/v1/quotas", json={"executions": -1}).status_code == 200
    assert call(service, function_id).status_code == 201


def test_calls_at_once_never_exceed_the_quota_in_one_process() -> None:
    """A call that has a row while it runs counts once. A call that ends without a record gives its place back."""
    code = "import time\ndef main(seconds=0):\n    time.sleep(seconds)\n"
    with running_service("", web_concurrency=1, max_workers=1, warm_workers=1, invoke_queue_timeout_s=3.0) as service:
        function_id = service.function(code, timeout=120)
        assert call(service, function_id).status_code == 201
        assert service.request("PUT", "/v1/quotas", json={"executions": 11}).status_code == 200

        def status(seconds: float) -> int:
            return call(service, function_id, seconds=seconds).status_code

        with ThreadPoolExecutor(20) as threads:
            assert Counter(threads.map(status, [0.0] * 60)) == {201: 10, 403: 50}
            assert len(service.request("GET", "/v1/executions").json()) == 11
            assert service.request("PUT", "/v1/quotas", json={"executions": 13}).status_code == 200
            slow = threads.submit(call, service, function_id, seconds=100.0)
            wait_until("it has a row", lambda: len(service.request("GET", "/v1/executions").json()) == 12)
            assert status(0.0) == 503  # it had a place, but no worker in time
            assert not slow.done()
            service.stop("pool")  # ends the slow call, with its worker
            assert slow.result().status_code == 201
            service.start_pool()
            wait_until("there is a worker", lambda: service.capacity(service.runtime())["available"] == 1)
            assert [status(0.0), status(0.0)] == [201, 403]


def test_the_pool_manager_deletes_what_is_not_kept(service: Service, function_id: str) -> None:
    ran = [call(service, function_id).json()["id"] for _ in range(KEPT + 2)]
    service.stop("pool")
    service.start_pool()  # it does so at its start, and then every minute

    def listed() -> list[str]:
        return [row["id"] for row in service.request("GET", "/v1/executions").json()]

    wait_until("old executions are deleted", lambda: listed() == ran[-KEPT:])
    assert service.request("GET", f"/v1/executions/{ran[0]}/log").status_code == 404
