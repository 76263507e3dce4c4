"""Good and hostile functions share few workers: every good call returns the right value, and nothing is left over."""

from __future__ import annotations

import concurrent.futures
import json
import os
import random
import threading
from collections import Counter
from typing import Any

import requests

from tests.integration.service import Service, running_service, wait_until
from tests.soak.amounts import CALLS, SOAKS
from tests.soak.mix import GOOD, HOSTILE, ISOLATION
from tests.soak.traces import NOT_COUNTED, Traces

WORKERS = 8
CALLERS = 12
HOSTILE_SHARE = 0.15
MOST_GROWTH_KIB = 16 * 1024
# User ids that nothing else on this machine has, so that the keys of these users are those of the functions.
UID_BASE = 100_000_000 + os.getpid() % 10_000 * 10_000


class Caller:
    """Calls functions of the mix, from several threads."""

    def __init__(self, service: Service):
        self._service = service
        self._good = {name: self._make(name, code, timeout_s=20) for name, code in GOOD.items()}
        self._hostile = {name: self._make(name, code, timeout_s=1) for name, code in HOSTILE.items()}
        self._local = threading.local()
        self.wrong: list[Any] = []
        self.ends: Counter[str] = Counter()

    def _make(self, name: str, code: str, timeout_s: int) -> str:
        return self._service.function(code, timeout=timeout_s, memory_size=48 << 20, isolation=ISOLATION[name])

    def call(self, number: int) -> None:
        """One call of a function, chosen by its number."""
        chance = random.Random(number)
        if chance.random() < HOSTILE_SHARE:
            name = chance.choice(list(self._hostile))
            self.ends[f"{name}: {self._post(self._hostile[name], number)[0]}"] += 1
            return
        name = chance.choice(list(self._good))
        status, output = self._post(self._good[name], number)
        if (status, output) != ("success", number):
            self.wrong.append((name, number, status, output))

    def end(self) -> None:
        """Delete the functions, whose workers end with them."""
        for function_id in [*self._good.values(), *self._hostile.values()]:
            assert self._service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204

    def _post(self, function_id: str, number: int) -> tuple[str, Any]:
        if not hasattr(self._local, "http"):
            self._local.http = requests.Session()
        body = {"function_id": function_id, "input": json.dumps({"n": number})}
        answer = self._local.http.post(f"{self._service.url}/v1/executions", json=body, timeout=120)
        if answer.status_code != 201:
            return str(answer.status_code), answer.text
        execution = answer.json()
        return execution["status"], json.loads(execution["result"] or "{}").get("output")


def test_good_calls_are_right_beside_hostile_ones_and_nothing_is_left() -> None:
    limits = {
        "max_workers": WORKERS, "warm_workers": 1, "function_concurrency": WORKERS, "project_concurrency": CALLERS,
        "invoke_queue_timeout_s": 60, "sandbox_uid_base": UID_BASE,
        "worker_idle_s": 3,  # so long the pool also keeps warm workers beyond its stock
    }  # fmt: skip
    with running_service(new_interpreters=True, **limits) as service:
        traces, caller, runtime = Traces(service), Caller(service), service.runtime()
        wait_until("the stock is there", lambda: service.capacity(runtime)["available"] >= 1)
        caller.call(0)

        def settle() -> None:
            """Delete the functions, and wait until only the stock is left."""
            caller.end()
            wait_until("only the stock is left", lambda: len(traces.workers()) == 1, timeout_s=60)
            wait_until("its groups too", lambda: len(traces.groups()) in (0, 2))

        # First enough calls to fill every cache, so that caches do not count as growth.
        with concurrent.futures.ThreadPoolExecutor(CALLERS) as threads:
            list(threads.map(caller.call, range(1, max(30, CALLS // 10))))
        settle()
        before, memory_before = traces.held(), traces.private_memory()

        caller = Caller(service)
        with concurrent.futures.ThreadPoolExecutor(CALLERS) as threads:
            list(threads.map(caller.call, range(CALLS)))
        assert caller.wrong == []
        settle()
        assert traces.left(before) == {}, "(before, after)"
        growth = {name: used - memory_before[name] for name, used in traces.private_memory().items()}
        assert max(growth.values()) < MOST_GROWTH_KIB, growth
        if SOAKS:
            print(f"\n{CALLS} calls; growth in KiB: {growth}; not counted here: {', '.join(NOT_COUNTED) or '-'}")
            for end, count in sorted(caller.ends.items()):
                print(f"  {end}: {count}")
