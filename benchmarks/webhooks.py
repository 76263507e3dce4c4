"""Deliveries to webhooks: how fast they are accepted, beside a bare Falcon app that sets a key in Redis.

    python -m benchmarks.webhooks [--rounds 3] [--seconds 5]

Four loads run in turn, each with 32 callers, on one service with default settings and embedded defaults:

`unsigned`   a webhook without a signature, whose deliveries have no ids;
`signed`     one with GitHub's signature, a rate limit that is not reached, and an id in each delivery;
`executions` `POST /v1/executions` with `"sync": false`, for comparison;
`bare`       the bare app (`bare_set.py`), with the requests of `signed`.
Ends with status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import statistics
import sys

from benchmarks.async_executions import CALLERS, NO_OP, bare_app
from benchmarks.measure import need_wrk, save, wrk
from tests.integration.service import Service, running_service
from tests.support.secrets import fernet_key

LEAST = {"unsigned_to_bare": 0.6, "signed_to_bare": 0.55}
BODY = {"ref": "refs/heads/main", "repository": {"full_name": "ada/engine"}}
SECRET = "0Gc4uFz7Lq2mT9xW"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    need_wrk()
    settings = {"quota_executions": -1, "async_queue_limit": 10_000_000, "secret_keys": fernet_key()}
    rows: dict[str, list[dict]] = {"unsigned": [], "signed": [], "executions": [], "bare": []}
    with running_service(new_interpreters=True, **settings) as service, bare_app(service) as bare_url:
        loads = loads_of(service, bare_url)
        for _ in range(options.rounds):
            for name, (url, body, headers) in loads.items():
                script = "wrk_call.lua" if name in ("unsigned", "executions") else "wrk_delivery.lua"
                rows[name].append(wrk(url, CALLERS, options.seconds, body, headers=headers, script=script))
    found: dict[str, float] = {}
    for name, of_it in rows.items():
        shown = (f"{row['rps']:.0f}/s, p50 {row['p50_ms']:.1f}, p99 {row['p99_ms']:.1f} ms" for row in of_it)
        print(f"{name:10}", list(shown), f"{sum(row['errors'] for row in of_it)} errors")
        found[f"{name}_per_s"] = statistics.median(row["rps"] for row in of_it)
        if name != "bare":
            ratios = (ours["rps"] / bare["rps"] for ours, bare in zip(of_it, rows["bare"], strict=True))
            found[f"{name}_to_bare"] = statistics.median(ratios)
    missed = [name for name, least in LEAST.items() if found[name] < least]
    missed += ["errors"] if any(row["errors"] for of_it in rows.values() for row in of_it) else []
    for name, value in found.items():
        bound = f" (bound {LEAST[name]})" if name in LEAST else ""
        print(f"{name}: {value:.3f}{bound}{' MISSED' if name in missed else ''}")
    save("webhooks", found)
    sys.exit(bool(missed))


def loads_of(service: Service, bare_url: str) -> dict[str, tuple[str, dict, str]]:
    """URL, body and headers of each load."""
    function_id = service.function(NO_OP)
    github = {"signature": {"scheme": "github", "secrets": [SECRET]}, "rate_limit": {"per_minute": 1_000_000}}
    urls = []
    for fields in ({}, github):
        answer = service.request("POST", "/v1/webhooks", json={"function_id": function_id, **fields})
        assert answer.status_code == 201, answer.text
        urls.append(answer.json()["webhook_url"])
    digest = hmac.digest(SECRET.encode(), json.dumps(BODY).encode(), hashlib.sha256).hex()
    signature = f"X-Hub-Signature-256: sha256={digest}"
    return {
        "unsigned": (urls[0], BODY, ""),
        "signed": (urls[1], BODY, signature),
        "executions": (f"{service.url}/v1/executions", {"function_id": function_id, "sync": False}, ""),
        "bare": (f"{bare_url}/v1/executions", BODY, signature),
    }


if __name__ == "__main__":
    main()
