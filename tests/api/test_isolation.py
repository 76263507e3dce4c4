"""`isolation` of runtimes and functions."""

from __future__ import annotations

import json

import pytest

from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.models import runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from tests.api.client import REFERENCE_CLIENT, Client, assert_error

CALLER = Context("default")


@pytest.fixture
def resolver(pool: Pool) -> Resolver:
    """A resolver whose cache is kept while a test makes changes."""
    return Resolver(pool)


def change_runtime(client: Client, runtime_id: str, isolation: str) -> None:
    answer = client.simulate_put(f"/v1/runtimes/{runtime_id}", json={"isolation": isolation})
    assert (answer.status_code, answer.json["isolation"]) == (200, isolation)


def is_stale(pool: Pool, target: Target) -> bool:
    whats = [what for what, _ in target.generations]
    return tuple(pool.generations(whats).items()) != target.generations


def test_a_runtime_is_warm_unless_it_says_otherwise(client: Client) -> None:
    warm, per_call = client.runtime(), client.runtime(isolation="per_call")
    assert client.simulate_get(f"/v1/runtimes/{warm}").json["isolation"] == "warm"
    assert client.simulate_get(f"/v1/runtimes/{per_call}").json["isolation"] == "per_call"
    found = client.simulate_get("/v1/runtimes?isolation=per_call").json
    assert [row["id"] for row in found] == [per_call]


def test_a_function_asks_for_an_isolation_or_has_its_runtimes(client: Client) -> None:
    for isolation in (None, "warm", "per_call"):
        fields = {} if isolation is None else {"isolation": isolation}
        made = client.function(**fields)
        assert made["isolation"] == isolation
        assert client.simulate_get(f"/v1/functions/{made['id']}").json["isolation"] == isolation
    found = client.simulate_get("/v1/functions?isolation=per_call").json
    assert [row["isolation"] for row in found] == ["per_call"]


@pytest.mark.parametrize("value", ["", "strict", "WARM", 1, True, ["warm"]])
def test_other_isolations_are_refused(client: Client, value: object) -> None:
    answer = client.simulate_post("/v1/runtimes", json={"image": "i", "isolation": value})
    assert_error(answer, 400, "isolation", "one of warm, per_call")
    path = f"/v1/functions/{client.function()['id']}"
    assert_error(client.simulate_put(path, json={"isolation": value}), 400, "isolation", "one of warm, per_call")


def test_a_function_cannot_ask_for_less_than_its_runtime_has(client: Client) -> None:
    strict = client.runtime(isolation="per_call")
    said = "isolation per_call; a function in it can't have warm"
    assert_error(client.upload(runtime_id=strict, isolation="warm"), 400, "isolation", said)
    made = client.function(runtime_id=strict)
    path = f"/v1/functions/{made['id']}"
    assert made["isolation"] is None
    assert_error(client.simulate_put(path, json={"isolation": "warm"}), 400, "isolation", said)
    assert client.simulate_put(path, json={"isolation": "per_call"}).json["isolation"] == "per_call"
    warm = f"/v1/functions/{client.function()['id']}"
    assert_error(client.simulate_put(warm, json={"isolation": "warm", "runtime_id": strict}), 400, said)
    assert client.simulate_put(warm, json={"isolation": "warm"}).status_code == 200
    assert client.simulate_put(warm, json={"runtime_id": strict, "name": "n"}).status_code == 200


def test_calls_get_the_stricter_one_of_function_and_runtime(client: Client, resolver: Resolver) -> None:
    for of_runtime, of_function, effective in (
        ("warm", None, "warm"), ("warm", "warm", "warm"), ("warm", "per_call", "per_call"),
        ("per_call", None, "per_call"), ("per_call", "per_call", "per_call"),
    ):  # fmt: skip
        fields = {} if of_function is None else {"isolation": of_function}
        made = client.function(runtime_id=client.runtime(isolation=of_runtime), **fields)
        assert resolver.resolve(CALLER, made["id"], 0).isolation == effective


def test_a_functions_change_makes_another_target_of_it(client: Client, resolver: Resolver, pool: Pool) -> None:
    function_id = client.function()["id"]
    before = resolver.resolve(CALLER, function_id, 0)
    assert client.simulate_put(f"/v1/functions/{function_id}", json={"isolation": "per_call"}).status_code == 200
    assert is_stale(pool, before)
    resolver.forget(before)
    after = resolver.resolve(CALLER, function_id, 0)
    assert (after.isolation, after.key == before.key) == ("per_call", False)


def test_a_runtimes_change_reaches_all_functions_and_versions_in_it(
    client: Client, resolver: Resolver, pool: Pool
) -> None:
    runtime_id, other = client.runtime(), client.runtime()
    mine, elsewhere = client.function(runtime_id=runtime_id)["id"], client.function(runtime_id=other)["id"]
    moved = client.function(runtime_id=runtime_id)["id"]  # it has left the runtime, and one of its versions has not
    for function_id in (mine, moved):
        assert client.simulate_post(f"/v1/functions/{function_id}/versions", json={}).status_code == 201
    assert client.simulate_put(f"/v1/functions/{moved}", json={"runtime_id": other}).status_code == 200
    targets = [(mine, 0), (mine, 1), (moved, 1), (moved, 0), (elsewhere, 0)]
    before = [resolver.resolve(CALLER, *target) for target in targets]
    change_runtime(client, runtime_id, "per_call")
    assert [is_stale(pool, target) for target in before] == [True, True, True, True, False]
    for target in before:
        resolver.forget(target)
    after = [resolver.resolve(CALLER, *target) for target in targets]
    assert [target.isolation for target in after] == ["per_call"] * 3 + ["warm"] * 2
    assert [new.key == old.key for new, old in zip(after, before, strict=True)] == [False] * 3 + [True] * 2
    change_runtime(client, runtime_id, "per_call")
    assert not is_stale(pool, after[0])


def test_a_function_that_is_made_during_the_change_of_its_runtime_is_reached(
    client: Client, resolver: Resolver, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_id, targets, update = client.runtime(), [], runtime.update

    def updated(*args: object, **more: object) -> object:
        made = client.function(runtime_id=runtime_id)
        targets.append(resolver.resolve(CALLER, made["id"], 0))
        return update(*args, **more)

    monkeypatch.setattr(runtime, "update", updated)
    change_runtime(client, runtime_id, "per_call")
    assert (targets[0].isolation, is_stale(pool, targets[0])) == ("warm", True)


def test_a_version_keeps_the_isolation_that_its_function_asked_for(client: Client, resolver: Resolver) -> None:
    function_id = client.function(isolation="per_call")["id"]
    assert client.simulate_post(f"/v1/functions/{function_id}/versions", json={}).status_code == 201
    assert client.simulate_put(f"/v1/functions/{function_id}", json={"isolation": "warm"}).status_code == 200
    assert resolver.resolve(CALLER, function_id, 1).isolation == "per_call"
    assert resolver.resolve(CALLER, function_id, 0).isolation == "warm"
    assert client.simulate_post(f"/v1/functions/{function_id}/versions", json={}).status_code == 201


def test_a_function_from_an_image_has_no_isolation(client: Client) -> None:
    body = {"name": "n", "code": {"source": "image", "image": "i"}, "isolation": "per_call"}
    assert_error(client.simulate_post("/v1/functions", json=body), 400, "isolation", "image")
    del body["isolation"]
    made = client.simulate_post("/v1/functions", json=body).json
    assert made["isolation"] is None
    assert_error(client.simulate_put(f"/v1/functions/{made['id']}", json={"isolation": "warm"}), 400, "isolation")


def test_the_reference_client_neither_sends_nor_misses_it(client: Client) -> None:
    code = json.dumps({"source": "package"})
    made = client.upload(code=code, headers=REFERENCE_CLIENT).json
    answer = client.simulate_put(f"/v1/functions/{made['id']}", json={"timeout": 9}, headers=REFERENCE_CLIENT)
    assert (answer.status_code, answer.json["isolation"]) == (200, None)
