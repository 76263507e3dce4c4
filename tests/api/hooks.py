"""What tests of deliveries to webhooks need: webhooks, signed deliveries, and executions that end."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from datetime import timedelta
from typing import Any

from falcon import testing

from qinling_falcon.models import clock, execution_ends, execution_queue
from qinling_falcon.models.execution import get
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.resources.services import Services
from tests.api.client import Client

SECRET = "0Gc4uFz7Lq2mT9xW"
GITHUB = {"scheme": "github", "secrets": [SECRET]}


@dataclasses.dataclass
class Hook:
    """A webhook, and what senders and its owner do with it."""

    client: Client
    services: Services
    id: str

    @property
    def url(self) -> str:
        return f"/v1/webhooks/{self.id}/invoke"

    def send(self, method: str = "POST", path: str = "", **request: Any) -> testing.Result:
        """A request to the webhook's URL, or to a path below it."""
        return self.client.simulate_request(method, self.url + path, **request)

    def send_signed(self, body: bytes = b"{}", secret: str = SECRET, **headers: str) -> testing.Result:
        """A delivery as GitHub signs it."""
        digest = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
        return self.send(body=body, headers={"X-Hub-Signature-256": f"sha256={digest}", **headers})

    def change(self, **fields: Any) -> dict[str, Any]:
        answer = self.client.simulate_put(f"/v1/webhooks/{self.id}", json=fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json)

    def deliveries(self) -> list[dict[str, Any]]:
        """The log, the newest delivery first."""
        self.services.pool.deliveries.flush()
        answer = self.client.simulate_get(f"/v1/webhooks/{self.id}/deliveries")
        assert answer.status_code == 200, answer.text
        return list(answer.json)

    def results(self) -> list[str]:
        """The results in the log, the oldest first."""
        return [row["result"] for row in reversed(self.deliveries())]

    def executions(self) -> list[dict[str, Any]]:
        """Its executions, the oldest first."""
        return list(self.client.simulate_get(f"/v1/executions?webhook_id={self.id}").json)


def end(execution_id: str, status: str) -> None:
    """Let a queued execution end, as a `worker` process does."""
    now = clock.now()
    [claimed] = execution_queue.claim([execution_id], now + timedelta(seconds=1), now + timedelta(minutes=1))
    row = get(Context("default"), execution_id)
    columns = {name: getattr(row, name) for name in ExecutionRecord._fields if name != "log"}
    ended = ExecutionRecord(**columns)._replace(
        status=status, attempt=claimed.attempt, updated_at=clock.now(), result='{"duration": 0.1, "output": "no"}'
    )
    assert execution_ends.end(ended, claimed.claim)
