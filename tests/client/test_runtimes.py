"""Runtimes and their pools, by the real library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client.driver import Client, ClientError
from tests.integration.service import Service, wait_until

pytestmark = pytest.mark.xdist_group("client")


def test_runtime_is_made_shown_listed_and_found_by_name(
    client: Client, name: str, check_fields: Callable[..., None]
) -> None:
    made = client.runtimes.create("python3", name=name, description="für alle", is_public=False, trusted=False)
    assert made["status"] == "creating"
    given = {"image": "python3", "name": name, "description": "für alle", "is_public": False, "trusted": False}
    assert {field: made[field] for field in given} == given

    def available() -> Any:
        row = client.runtimes.get(made["id"])
        return row if row["status"] == "available" else None

    row = wait_until("the runtime is available", available)
    assert row in client.runtimes.list()
    assert client.runtimes.find(name=name) == row
    assert client.runtimes.findall(name=name, image="python3") == [row]
    check_fields("runtime", made, row, *client.runtimes.list())

    client.runtimes.delete(made["id"])
    wait_until("the runtime is gone", lambda: made["id"] not in [row["id"] for row in client.runtimes.list()])
    with pytest.raises(ClientError, match=made["id"]) as gone:
        client.runtimes.get(made["id"])
    assert gone.value.kind == "HTTPNotFound"


def test_runtime_of_an_image_alone_is_public_and_trusted(client: Client) -> None:
    made = client.runtimes.create("python3")
    assert (made["name"], made["description"]) == (None, None)
    assert (made["is_public"], made["trusted"]) == (True, True)
    client.runtimes.delete(made["id"])


def test_pool_counts_its_workers(client: Client, service: Service, check_fields: Callable[..., None]) -> None:
    runtime_id = service.runtime()

    def filled() -> Any:
        pool = client.runtimes.get_pool(runtime_id)
        return pool if pool["capacity"]["available"] else None

    pool = wait_until("the pool has warm workers", filled)
    assert pool["name"] == runtime_id
    assert pool["capacity"]["total"] >= pool["capacity"]["available"] > 0
    check_fields("runtime_pool", pool)
