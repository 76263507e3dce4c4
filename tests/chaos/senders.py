"""Senders of signed webhook deliveries, who repeat each one until it is accepted."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field

from qinling_falcon.webhooks import signing
from tests.chaos.caller import Caller
from tests.chaos.ledger import Told
from tests.chaos.stage import Stage
from tests.chaos.threads import Threads
from tests.support.secrets import SECRET

_REPEATED = 0.05  # this part of the deliveries is sent once more after its answer


@dataclass
class Senders:
    """Sends a burst of deliveries to one webhook, as fast as it can.

    Each delivery has an id of its own, and is repeated until it is accepted. So it has exactly one execution.

    Attributes:
        stage: the service. Its first function is called.
        senders: how many senders there are.
        most: how many deliveries there are.
        longest_s: the longest time for which an execution sleeps.
        seed: chooses the inputs and the repeated deliveries.
        acknowledged: what was told about each execution, by execution.
        refused: how many requests had another answer than 202, or none.
        threads: the senders.
    """

    stage: Stage
    senders: int
    most: int
    longest_s: float
    seed: int
    acknowledged: dict[str, Told] = field(default_factory=dict)
    refused: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._left = iter(range(self.most))
        self.threads = Threads(self.senders, self._send_on)
        self._function_id = next(iter(self.stage.functions))
        self._path = self._make_webhook()

    @property
    def is_done(self) -> bool:
        """Whether all deliveries are accepted."""
        return len(self.acknowledged) >= self.most

    def problems(self) -> list[str]:
        """The executions that no sender knows, in one line. Each request was repeated until it was answered."""
        stored = {execution_id for (execution_id,) in self.stage.rows("SELECT id FROM executions WHERE NOT sync")}
        unknown = sorted(stored - self.acknowledged.keys())
        return [f"{len(unknown)} executions were not acknowledged: {unknown[:8]}"] if unknown else []

    def _make_webhook(self) -> str:
        signature = {"scheme": "standard", "secrets": [SECRET]}
        body = {"function_id": self._function_id, "signature": signature}
        answer = self.stage.service.request("POST", "/v1/webhooks", json=body)
        assert answer.status_code == 201, answer.text
        return f"/v1/webhooks/{answer.json()['id']}/invoke"

    def _send_on(self, _: int) -> None:
        caller = Caller(self.stage.service.url)
        try:
            while not self.threads.stopping.is_set():
                with self._lock:
                    number = next(self._left, None)
                if number is None:
                    return
                self._deliver(caller, f"{self.seed}-{number}")
        finally:
            caller.close()

    def _deliver(self, caller: Caller, delivery_id: str) -> None:
        choices = random.Random(delivery_id)
        body = json.dumps({"seconds": round(choices.uniform(0, self.longest_s), 4)}).encode()
        execution_id = self._insist(caller, delivery_id, body)
        if choices.random() < _REPEATED:
            again = self._insist(caller, delivery_id, body)
            assert again == execution_id, f"delivery {delivery_id} has two executions"
        with self._lock:
            assert execution_id not in self.acknowledged, f"execution {execution_id} has two deliveries"
            self.acknowledged[execution_id] = Told(execution_id, self._function_id)

    def _insist(self, caller: Caller, delivery_id: str, body: bytes) -> str:
        """Send a delivery until it is accepted. Returns its execution."""
        headers = signing.headers(delivery_id, int(time.time()), body, SECRET)
        headers["Content-Type"] = "application/json"
        answer = caller.insist("POST", self._path, (202,), data=body, headers=headers)
        with self._lock:
            self.refused += answer.unanswered
        return str(answer.json["execution_id"])
