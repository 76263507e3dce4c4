"""What tests of deliveries share: executions that end, and the wait for what they cause."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models.database import reading
from qinling_falcon.models.internal_tables import Callback
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from tests.models.factories import end_claimed
from tests.models.test_callbacks import claimed_execution, ended
from tests.support.secrets import SECRET
from tests.webhooks.receiver import Received

OWNER, OTHER = Context("project-a"), Context("project-b")


def run(function_id: str, status: str = "success", **fields: Any) -> ExecutionRecord:
    """An asynchronous execution that has ended."""
    final = ended(claimed_execution(function_id, **fields), status)
    assert end_claimed(final)
    return final


def deliver(delivering: Callbacks) -> int:
    """Deliver what is due, and wait for it."""
    started = delivering.deliver_due()
    delivering._running.join(10)
    return started


def deliver_all(delivering: Callbacks) -> int:
    """Deliver until no callback is left, also those that fail; how many attempts that took."""
    attempts = 0
    give_up = time.monotonic() + 20
    while rows():
        assert time.monotonic() < give_up
        attempts += deliver(delivering)
    return attempts


def rows() -> list[Callback]:
    with reading():
        return list(Callback.select())


def check_signature(request: Received) -> None:
    """As a receiver does that has read the specification, and nothing of this service."""
    key = base64.b64decode(SECRET[len("whsec_") :])
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"].split(" ") == [f"v1,{expected}"]
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300
