"""Lists: bare or enveloped, paged or whole, and never in memory at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from qinling_falcon.models import clock, runtime
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from tests.api.client import REFERENCE_CLIENT, Client, assert_error

OWN = Context("default")


def make(count: int) -> list[str]:
    return [runtime.create(OWN, image="i", name=f"r{number}").id for number in range(count)]


def names(answer: Any) -> list[str]:
    rows = answer.json["runtimes"] if isinstance(answer.json, dict) else answer.json
    return [row["name"] for row in rows]


def test_an_empty_list_is_empty(client: Client) -> None:
    for kind in ("runtimes", "functions", "executions"):
        assert client.simulate_get(f"/v1/{kind}").json == []
        assert client.simulate_get(f"/v1/{kind}", headers=REFERENCE_CLIENT).json == {kind: []}


@pytest.mark.parametrize(
    ("setting", "agent", "enveloped"),
    [
        ("auto", "curl/8", False),
        ("auto", "python-qinlingclient", True),
        ("auto", "horizon keystoneauth1/5.0", True),
        ("auto", None, False),
        ("always", "curl/8", True),
        ("never", "python-qinlingclient", False),
    ],
)
def test_envelopes_are_for_those_who_need_them(
    client_with: Callable[..., Client], setting: str, agent: str | None, enveloped: bool
) -> None:
    client = client_with(list_envelope=setting)
    make(1)
    answer = client.simulate_get("/v1/runtimes", headers={"User-Agent": agent} if agent else {})
    assert isinstance(answer.json, dict) is enveloped
    assert names(answer) == ["r0"]


def test_pages_follow_each_other_by_their_links(client: Client) -> None:
    make(5)
    seen: list[str] = []
    path: str | None = "/v1/runtimes?limit=2&is_public=true"
    pages = 0
    while path is not None:
        answer = client.simulate_get(path)
        seen += names(answer)
        pages += 1
        link = answer.headers.get("link")
        path = None
        if link is not None:
            assert link.endswith('>; rel="next"')
            path = link[link.index("/v1/") : link.index(">")]
            assert "is_public=true" in path
    assert seen == [f"r{number}" for number in range(5)]
    assert pages == 3


def test_an_envelope_names_the_next_page(client_with: Callable[..., Client]) -> None:
    client = client_with(list_envelope="always")
    make(3)
    answer = client.simulate_get("/v1/runtimes?limit=2")
    assert f'<{answer.json["next"]}>; rel="next"' == answer.headers["link"]
    last = client.simulate_get(answer.json["next"].partition("/v1")[2].join(["/v1", ""]))
    assert set(last.json) == {"runtimes"}
    assert names(last) == ["r2"]


def test_without_a_limit_a_page_has_as_many_rows_as_the_setting_says(client_with: Callable[..., Client]) -> None:
    client = client_with(list_limit=2, list_limit_max=3)
    make(5)
    assert names(client.simulate_get("/v1/runtimes")) == ["r0", "r1"]
    assert names(client.simulate_get("/v1/runtimes?limit=100")) == ["r0", "r1", "r2"]


def test_the_reference_client_gets_all_rows_unless_it_names_a_limit(client_with: Callable[..., Client]) -> None:
    client = client_with(list_limit=2, list_limit_max=3)
    make(5)
    answer = client.simulate_get("/v1/runtimes", headers=REFERENCE_CLIENT)
    assert names(answer) == [f"r{number}" for number in range(5)]
    assert "link" not in answer.headers
    assert names(client.simulate_get("/v1/runtimes?limit=1", headers=REFERENCE_CLIENT)) == ["r0"]


def test_a_large_list_is_sent_while_it_is_read(client: Client) -> None:
    function_id = client.function()["id"]
    for number in range(40):
        at = clock.now()
        fields: dict[str, Any] = {"project_id": "default", "function_id": function_id, "status": "success"}
        execution_id = f"00000000-0000-4000-8000-{number:012}"
        record(ExecutionRecord(id=execution_id, result="x" * 20_000, created_at=at, updated_at=at, **fields))
    for headers, key in (({}, None), (REFERENCE_CLIENT, "executions")):
        answer = client.simulate_get("/v1/executions", headers=headers)
        assert "content-length" not in answer.headers
        rows = answer.json[key] if key else answer.json
        assert [row["id"][-2:] for row in rows] == [f"{number:02}" for number in range(40)]


def test_a_large_page_still_names_the_next(client_with: Callable[..., Client]) -> None:
    client = client_with(list_envelope="always")
    description = "x" * 250
    for number in range(700):
        runtime.create(OWN, image="i", name=f"r{number}", description=description)
    answer = client.simulate_get("/v1/runtimes?limit=699")
    assert "content-length" not in answer.headers
    assert len(answer.json["runtimes"]) == 699
    assert answer.json["runtimes"][-1]["id"] in answer.json["next"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sort_key=name&sort_dir=desc", ["r2", "r1", "r0"]),
        ("sort_dir=desc&limit=1", ["r2"]),
        ("name=r1", ["r1"]),
        ("name=nin:r1,r2", ["r0"]),
        ("name=gt:r0&name=lt:r2", ["r1"]),
        ("is_public=True", ["r0", "r1", "r2"]),
        ("project_id=default", ["r0", "r1", "r2"]),
        ("project_id=other", []),
    ],
)
def test_lists_are_sorted_and_filtered(client: Client, query: str, expected: list[str]) -> None:
    make(3)
    assert names(client.simulate_get("/v1/runtimes", query_string=query)) == expected


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=\u00b2", "limit"),
        ("marker=7", "marker"),
        ("marker=00000000-0000-4000-8000-000000000000", "marker"),
        ("sort_key=image", "sort_key"),
        ("sort_dir=up", "sort_dir"),
        ("colour=red", "colour"),
        ("name=a%00b", "nul"),
        ("is_public=perhaps", "is_public"),
        ("created_at=yesterday", "created_at"),
    ],
)
def test_what_a_list_can_not_do_is_refused(client: Client, query: str, word: str) -> None:
    assert_error(client.simulate_get("/v1/runtimes", query_string=query), 400, word)


def test_all_projects_is_true_or_false(client: Client) -> None:
    assert_error(client.simulate_get("/v1/functions?all_projects=perhaps"), 400, "all_projects")


def test_the_reference_clients_unknown_filters_are_skipped(client: Client) -> None:
    make(1)
    assert names(client.simulate_get("/v1/runtimes?colour=red", headers=REFERENCE_CLIENT)) == ["r0"]


def test_a_marker_survives_being_quoted(client: Client) -> None:
    make(2)
    first = client.simulate_get("/v1/runtimes?limit=1&name=has:r").headers["link"]
    assert "name=has%3Ar" in first
    assert json.loads(client.simulate_get(first[first.index("/v1/") : first.index(">")]).text)[0]["name"] == "r1"


def test_a_filter_may_have_as_many_values_as_a_url_holds(client: Client) -> None:
    made = client.function()
    for name, value, some in (
        ("created_at", made["created_at"], [f"2019-{day // 28 % 12 + 1:02}-{day % 28 + 1:02}" for day in range(330)]),
        ("name", made["name"], [f"n{number}" for number in range(1500)]),
        ("cpu", made["cpu"], [str(number) for number in range(1000, 2500)]),
    ):
        for word, found in (("in", 1), ("nin", 0)):
            answer = client.simulate_get("/v1/functions", params={name: f"{word}:{','.join([*some, str(value)])}"})
            assert (answer.status_code, len(answer.json)) == (200, found), name
    assert_error(client.simulate_get("/v1/functions", query_string="&".join(["name=n"] * 51)), 400, "51 filters")
    assert client.simulate_get("/v1/functions", query_string="&".join(["name=n"] * 50)).json == []


@pytest.mark.parametrize("text", ["1_0", "\N{ARABIC-INDIC DIGIT THREE}", "0x10", "1.0", ""])
def test_a_number_in_a_filter_is_written_in_digits(client: Client, text: str) -> None:
    assert_error(client.simulate_get("/v1/functions", params={"cpu": f"eq:{text}"}), 400, "cpu")


def test_space_around_a_number_in_a_filter_is_none_of_it(client: Client) -> None:
    made = client.function()
    answer = client.simulate_get("/v1/functions", params={"cpu": f"eq:{' ' * 30}{made['cpu']}{' ' * 30}"})
    assert [row["id"] for row in answer.json] == [made["id"]]
