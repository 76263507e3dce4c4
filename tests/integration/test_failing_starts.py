"""Workers of one runtime do not start: its calls are refused in time, other runtimes are served, and it comes back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.integration.held_calls import QUICK
from tests.integration.pool_failures import PoolRecords, calls_beside, check_settled, pool_records, status_of
from tests.integration.service import ROOT, Service, running_service, wait_until

pytestmark = pytest.mark.xdist_group("failing-starts")

START_SLOTS = os.cpu_count() or 1
ENDS_AT_ONCE = "raise SystemExit(3)\n"
HANGS = "import time\ntime.sleep(600)\n"


@dataclass(frozen=True, slots=True)
class Town:
    """A service with two runtimes: the usual one, and one whose program tests replace.

    Attributes:
        other: the id of that runtime.
    """

    service: Service
    records: PoolRecords
    other: str

    @contextmanager
    def replaced_program(self, text: str) -> Iterator[None]:
        """Workers of the other runtime run this program meanwhile."""
        # The manager starts its own copy of the folder, which it made at the first start.
        [mark] = (self.service.var_dir / "programs").glob("*/other")
        program = mark.with_name("worker.py")
        before = program.read_text()
        program.write_text(text)
        try:
            yield
        finally:
            program.write_text(before)

    def starting(self) -> int:
        """How many workers of the other runtime are being started."""
        runtimes = self.service.request("GET", "/v1/pool").json()["runtimes"]
        return sum(row["workers"]["starting"] for row in runtimes if row["id"] == self.other)

    def failed_starts(self) -> int:
        """How many starts of the other runtime have failed lately."""
        rows = self.service.request("GET", "/v1/pool/events?limit=1000").json()
        return sum((row["event"], row["runtime_id"]) == ("start_failed", self.other) for row in rows)

    def calls_succeed(self, runtime_id: str) -> bool:
        """Whether the next call of a new function does."""
        body = {"function_id": self.service.function(QUICK, runtime_id=runtime_id)}
        answer = self.service.request("POST", "/v1/executions", json=body)
        return bool(answer.status_code == 201 and answer.json()["status"] == "success")


@pytest.fixture
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("runtimes")
    folder.chmod(0o755)
    shutil.copytree(ROOT / "runtimes" / "python3", folder / "other")
    (folder / "other" / "other").touch()
    usual = ROOT / "runtimes" / "python3" / "worker.py"
    table = f'[runtimes.python3]\nimages = ["python3"]\nprogram = "{usual}"\nzygote = true\n'
    table += '[runtimes.other]\nimages = ["other"]\nprogram = "other/worker.py"\n'
    (folder / "runtimes.toml").write_text(table)
    most = START_SLOTS + 6
    limits = {"max_workers": most, "warm_workers": 1, "function_concurrency": most, "project_concurrency": most}
    times = {"invoke_queue_timeout_s": 6, "worker_start_timeout_s": 10, "holder_ttl_s": 3}
    with (
        running_service(runtimes_file=folder / "runtimes.toml", **limits, **times) as service,
        pool_records(service) as records,
    ):
        service.runtime()
        yield Town(service, records, service.runtime("other", "other"))


def test_calls_of_a_runtime_whose_starts_fail_are_refused_in_time_and_others_are_served(town: Town) -> None:
    function_id = town.service.function(QUICK, runtime_id=town.other)
    with calls_beside(town.service) as calls, town.replaced_program(ENDS_AT_ONCE):
        assert town.calls_succeed(town.other), "by the warm worker"
        waiting = [calls.begin(function_id) for _ in range(2)]
        wait_until("starts fail again and again", lambda: town.failed_starts() >= 3)

        for _ in range(4):
            assert town.calls_succeed(town.service.runtime())

        assert [status_of(call) for call in waiting] == ["503"] * 2
        check_settled(town.service, town.records, function_id, {})
    wait_until("its workers start again", lambda: town.calls_succeed(town.other))
    assert town.service.call(function_id)["status"] == "success"
    check_settled(town.service, town.records, function_id, {"success": 1})


def test_starts_that_hang_hold_no_slots_from_other_runtimes(town: Town) -> None:
    functions = [town.service.function(QUICK, runtime_id=town.other) for _ in range(START_SLOTS + 1)]
    with calls_beside(town.service) as calls, town.replaced_program(HANGS):
        assert town.calls_succeed(town.other), "by the warm worker"
        waiting = [calls.begin(function_id) for function_id in functions]
        wait_until("each slot has a start that hangs", lambda: town.starting() == START_SLOTS)

        for _ in range(4):
            assert town.calls_succeed(town.service.runtime())

        assert town.starting() >= START_SLOTS, "they still hang"
        assert [status_of(call) for call in waiting] == ["503"] * len(waiting)
    wait_until("its workers start again", lambda: town.calls_succeed(town.other))
    assert town.service.call(functions[0])["status"] == "success"
    check_settled(town.service, town.records, functions[0], {"success": 1})
