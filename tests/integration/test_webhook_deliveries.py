"""Deliveries while web processes are killed: each one that was answered with 202 has one execution, which runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import requests

from tests.integration.databases import database_url
from tests.integration.service import Service, running_service, wait_until

SENDERS, DELIVERIES, KILLS = 6, 25, 4


@pytest.fixture(params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with running_service(database_url(request), with_workers=True, max_workers=6) as running:
        yield running


class Sender(threading.Thread):
    """Sends deliveries one after another, and each one until it is answered with 202, as real senders do."""

    def __init__(self, url: str, number: int):
        super().__init__(daemon=True)
        self._url = url
        self._number = number
        self.answered: dict[str, set[str]] = {}
        self.repeats = 0

    def run(self) -> None:
        for number in range(DELIVERIES):
            delivery_id = f"{self._number}-{number}"
            while delivery_id not in self.answered:
                self._send(delivery_id)
            if number % 3 == 0:
                self._send(delivery_id)  # a sender that has lost the answer

    def _send(self, delivery_id: str) -> None:
        try:
            answer = requests.post(self._url, json={}, headers={"webhook-id": delivery_id}, timeout=20)
        except requests.RequestException:
            self.repeats += 1
            return
        assert answer.status_code in (202, 503), answer.text
        if answer.status_code == 202:
            self.answered.setdefault(delivery_id, set()).add(answer.json()["execution_id"])


def test_no_delivery_is_lost_or_doubled_while_web_processes_are_killed(service: Service) -> None:
    function_id = service.function("def main(): return 'done'")
    answer = service.request("POST", "/v1/webhooks", json={"function_id": function_id})
    assert answer.status_code == 201
    senders = [Sender(answer.json()["webhook_url"], number) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for kill in range(KILLS):
        goal = (kill + 1) * SENDERS * DELIVERIES // (KILLS + 2)
        wait_until("deliveries are accepted", lambda goal=goal: sum(len(one.answered) for one in senders) >= goal, 60)
        os.kill(service.web_processes()[kill % 2], signal.SIGKILL)
        wait_until("the process is replaced", lambda: len(service.web_processes()) == 2)
    for sender in senders:
        sender.join(90)
        assert not sender.is_alive()
    answered = {delivery: ids for sender in senders for delivery, ids in sender.answered.items()}
    assert len(answered) == SENDERS * DELIVERIES
    assert {len(ids) for ids in answered.values()} == {1}, "each delivery has one execution"
    params = {"webhook_id": answer.json()["id"], "limit": 1000}

    def ended() -> bool:
        rows = service.request("GET", "/v1/executions", params=params).json()
        return all(row["status"] == "success" for row in rows)

    wait_until("all executions have ended", ended, 60)
    rows = service.request("GET", "/v1/executions", params=params).json()
    assert {row["id"] for row in rows} == {execution for ids in answered.values() for execution in ids}
