"""SIGKILL to every process below `make run`, one after another, in the middle of a call."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal

import pytest

from tests.chaos.calls import Chaos, RunningCall, outcome
from tests.integration.service import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("make-run"), pytest.mark.timeout(180)]


def test_runtime_child(chaos: Chaos) -> None:
    call = chaos.begin()

    os.kill(call.child, signal.SIGKILL)

    execution = outcome(call)
    assert execution is not None
    assert execution["status"] == "failed"
    assert "too much resource consumption" in json.loads(execution["result"])["output"]
    chaos.check_back()


def test_worker_supervisor(chaos: Chaos) -> None:
    call = chaos.begin()

    chaos.kill(call.worker_supervisor)

    execution = outcome(call)
    assert execution is not None
    assert execution["status"] == "error"
    assert "may have run" in execution["status_reason"]
    chaos.check_back()


def test_web_process(chaos: Chaos) -> None:
    call = chaos.begin()

    chaos.kill(call.web)

    assert outcome(call) is None
    chaos.check_back()


def test_gunicorn_master(chaos: Chaos) -> None:
    call = chaos.begin()

    chaos.kill(chaos.gunicorn_master())

    assert outcome(call) is None
    chaos.check_back()


def test_pool_manager(chaos: Chaos) -> None:
    call = chaos.begin()

    chaos.kill(chaos.service.pid_of("workers.pool"))

    execution = outcome(call)
    assert execution is not None, "web lives on"
    assert execution["status"] == "error", "local workers end with their manager"
    chaos.check_back()


@pytest.mark.parametrize("name", ["worker", "scheduler"])
def test_rq_processes(chaos: Chaos, name: str) -> None:
    before = chaos.service.pid_of(f"workers.{name}")
    call = chaos.begin()

    chaos.kill(before)
    call.end()

    execution = outcome(call)
    assert execution is not None
    assert execution["status"] == "success", "synchronous calls need neither of them"
    wait_until("it is back", lambda: chaos.service.pid_of(f"workers.{name}"))
    chaos.check_back()


def test_valkey(chaos: Chaos) -> None:
    call = chaos.begin()

    chaos.kill(chaos.service.pid_of("valkey-server"))
    call.end()

    execution = outcome(call)
    assert execution is not None
    assert execution["status"] == "success", "a call that has begun needs no Redis"
    chaos.check_back()


def check_answer_after_loss_of_redis(call: RunningCall) -> None:
    """The caller is answered. The call ends as `error` if the manager's next pass comes before the end of the function:
    the pass ends the workers that Redis does not know any more.
    """
    concurrent.futures.wait([call.answer], 2)
    call.end()
    execution = outcome(call)
    assert execution is not None
    assert execution["status"] in ("error", "success")


def test_valkey_emptied(chaos: Chaos) -> None:
    call = chaos.begin()

    chaos.redis().flushall()

    check_answer_after_loss_of_redis(call)
    chaos.check_back()


def test_valkey_killed_with_its_data(chaos: Chaos) -> None:
    call = chaos.begin()
    shutil.rmtree(chaos.service.var_dir / "valkey" / "appendonlydir")

    chaos.kill(chaos.service.pid_of("valkey-server"))

    check_answer_after_loss_of_redis(call)
    chaos.check_back()


def test_everything_still_runs_in_the_end(chaos: Chaos) -> None:
    """The service of the tests above, which shows that no kill has left anything: it is shared on purpose.

    Alone, this test is one of a service that nothing was done to.
    """
    for name in ("worker", "scheduler", "pool"):
        assert chaos.service.pid_of(f"workers.{name}"), name
    assert chaos.gunicorn_master()
    assert chaos.service.pid_of("valkey-server")
    chaos.check_back()
    chaos.service.terminate()
    chaos.service.wait_nothing_left(2)
