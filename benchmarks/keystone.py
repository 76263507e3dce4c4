"""The warm synchronous call with Keystone, its token cached, beside that without, interleaved in one run.

    python -m benchmarks.keystone [--rounds 9] [--seconds 4]

Three services of this tree run all the time, with databases and a Valkey of their own; two of them use a real Keystone
(its tools are beside the checkout; `tests/servers/openstack.py`). A round is one run of wrk, at 32 callers, against
    `noauth`: `AUTH_MODE=noauth`;
    `keystone`: a function without a session, for whoever made it had an application credential, which makes no trust;
    `session`: a function with a trust, whose token goes with each call;
in an order that turns. What counts is the median over the rounds of the ratio of CPU time a call to `noauth`'s, all
processes of a service together (Keystone's own are not: it is asked once in `TOKEN_CACHE_S`). Then what one look into
the cache of tokens and one decision of the policy cost. Ends with status 1 when BOUND is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable

import requests

from benchmarks.measure import HELLO, need_wrk, save
from benchmarks.two_commits import LIMITS, run
from benchmarks.warm_call import warm_up
from qinling_falcon.auth.keystone import KeystoneAuth
from qinling_falcon.auth.policy import Policy
from qinling_falcon.settings_environment import read_settings
from tests.integration.service import Service, running_service
from tests.servers.openstack import Keystone, running_keystone

# Most CPU a call with a cached token, as a share of that without Keystone.
BOUND = 1.15
USER = "admin"


def restricted_token(keystone: Keystone) -> str:
    """A token by an application credential."""
    body = {"application_credential": {"name": "bench"}}
    users = f"/users/{keystone.state['users'][USER]['id']}"
    made = keystone.request("POST", f"{users}/application_credentials", keystone.token(USER), json=body).json()
    made = made["application_credential"]
    identity = {"methods": ["application_credential"], "application_credential": {k: made[k] for k in ("id", "secret")}}
    answer = requests.post(f"{keystone.url}/auth/tokens", json={"auth": {"identity": identity}}, timeout=30)
    answer.raise_for_status()
    return answer.headers["X-Subject-Token"]


def has_trust(service: Service, function_id: str) -> bool:
    with contextlib.closing(sqlite3.connect(service.var_dir / "qinling.db")) as database:
        rows = database.execute("SELECT trust_id FROM functions WHERE id = ?", (function_id,)).fetchall()
    return rows[0][0] is not None


def microseconds(call: Callable[[], object], times: int = 20_000) -> float:
    """One call, as the median of nine loops."""
    loops = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(times):
            call()
        loops.append((time.perf_counter() - start) / times * 1e6)
    return statistics.median(loops)


def bare(keystone: Keystone, token: str) -> dict[str, float]:
    """What is added to a call, in microseconds."""
    settings = read_settings(keystone.settings())
    policy = Policy(None)
    auth = KeystoneAuth(settings, policy)
    environ = {"HTTP_X_AUTH_TOKEN": token, "REQUEST_METHOD": "POST", "PATH_INFO": "/v1/executions"}
    context = auth.authenticate(environ).context
    return {
        "the caller of a cached token": microseconds(lambda: auth.authenticate(environ)),
        "a decision of the policy that was made before": microseconds(
            lambda: policy.enforce(context, "execution:create")
        ),
        "a decision of the policy that is new": microseconds(lambda: policy._decide(context, "execution:create"), 200),
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--seconds", type=int, default=4)
    options = arguments.parse_args()
    need_wrk()
    with contextlib.ExitStack() as held:
        keystone = held.enter_context(running_keystone())
        token, restricted = keystone.token(USER), restricted_token(keystone)
        services = {"noauth": held.enter_context(running_service(new_interpreters=True, **LIMITS))}
        functions = {"noauth": services["noauth"].function(HELLO)}
        for name, maker in (("keystone", restricted), ("session", token)):
            service = services[name] = held.enter_context(
                running_service(new_interpreters=True, **LIMITS, **keystone.settings())
            )
            service.http.headers["X-Auth-Token"] = token
            service.runtime()
            service.http.headers["X-Auth-Token"] = maker
            functions[name] = service.function(HELLO)
            service.http.headers["X-Auth-Token"] = token
            assert has_trust(service, functions[name]) is (name == "session")
        sent = {name: "" if name == "noauth" else f"X-Auth-Token: {token}" for name in functions}
        calls = {name: {"function_id": function_id, "input": None} for name, function_id in functions.items()}
        for name in functions:
            warm_up(services[name], calls[name], sent[name])
        rounds: list[dict[str, dict[str, float]]] = []
        names = list(functions)
        for number in range(options.rounds):
            turned = names[number % len(names) :] + names[: number % len(names)]
            if number % 2:
                turned.reverse()
            rounds.append({name: run(services[name], calls[name], options.seconds, sent[name]) for name in turned})
            print(f"round {number + 1} of {options.rounds} done", flush=True)
        cost = bare(keystone, token)
    sys.exit(report(rounds, cost))


def report(rounds: list[dict[str, dict[str, float]]], cost: dict[str, float]) -> int:
    result: dict[str, dict] = {}
    held = True
    for name in ("keystone", "session"):
        print(f"\n{'median':28} {'noauth':>10} {name:>10} {'ratio':>8}   lowest to highest ratio")
        result[name] = {}
        for what in rounds[0]["noauth"]:
            old, new = ([one[which][what] for one in rounds] for which in ("noauth", name))
            ratios = sorted(this / other for this, other in zip(new, old, strict=True))
            middle = statistics.median(ratios)
            result[name][what] = {"noauth": statistics.median(old), name: statistics.median(new), "ratios": ratios}
            print(
                f"{what:28} {statistics.median(old):10.3f} {statistics.median(new):10.3f} {middle:8.3f}"
                f"   {ratios[0]:.3f} to {ratios[-1]:.3f}"
            )
            held = held and (what != "all" or middle <= BOUND)
    print()
    for what, took_us in cost.items():
        print(f"{what}: {took_us:.2f} us")
    save("keystone", {"rounds": result, "bare_us": cost})
    print("bound holds" if held else f"BOUND MISSED: {BOUND}")
    return 0 if held else 1


if __name__ == "__main__":
    main()
