"""What all lists have in common: their form, pages, order and filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.contract import shapes
from tests.contract.service import LIST_LIMIT, LIST_LIMIT_MAX, NOBODY, REFERENCE_CLIENT, User, error
from tests.integration.service import wait_until

pytestmark = pytest.mark.xdist_group("contract")

Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One list.

    Attributes:
        envelope: its name in an envelope.
        shape: of its rows.
        make: makes a row.
        mine: a filter that finds the rows of these tests.
        sort_keys: what it can be sorted by beside the times, which all can.
        shared: whether an admin's `all_projects` has a meaning: it has none where rows are found by their function,
            or are public.
        path: of the list.
    """

    envelope: str
    shape: shapes.Shape
    make: Callable[[User, int], Row]
    mine: Mapping[str, str]
    sort_keys: frozenset[str] = frozenset()
    shared: bool = True
    path: str = ""


@dataclass(frozen=True)
class List:
    """A list with the rows that these tests have made of it, in order of their creation."""

    kind: Kind
    user: User
    path: str
    rows: list[Row]

    def get(self, headers: Mapping[str, str] | None = None, **query: Any) -> requests.Response:
        """Of its own rows; with another filter of the same name, both hold."""
        return self.user.get(self.path, params=[*self.kind.mine.items(), *query.items()], headers=headers or {})

    def found(self, **query: Any) -> list[Row]:
        answer = self.get(**query)
        assert answer.status_code == 200, answer.text
        return list(answer.json())


def runtime(user: User, number: int) -> Row:
    made = user.made("/v1/runtimes", image=f"no/such-image-{number}", name=f"n{number}", description="of a list")
    path = f"/v1/runtimes/{made['id']}"
    return dict(wait_until("its status is final", lambda: (row := user.get(path).json())["status"] == "error" and row))


def function(user: User, number: int) -> Row:
    image = {"source": "image", "image": f"no/such-image-{number}"}
    fields = {"cpu": 100 + number, "timeout": 5 + number, "runtime_id": user.runtime_id()}
    made = user.made("/v1/functions", name=f"n{number}", description="of a list", code=image, **fields)
    return dict(user.get(f"/v1/functions/{made['id']}").json())


def version(user: User, number: int) -> Row:
    function_id = listed_function(user)
    return dict(user.get(f"/v1/functions/{function_id}/versions/{user.version(function_id, description='v')}").json())


def execution(user: User, number: int) -> Row:
    alias = user.alias(listed_function(user))
    given = {"description": "of a list", "input": f'{{"name": "{number}"}}', "function_alias": alias}
    return user.made("/v1/executions", **given)


def alias(user: User, number: int) -> Row:
    given = {"name": f"n{number}", "function_id": listed_function(user), "description": "of a list"}
    user.delete(f"/v1/aliases/{given['name']}")
    return user.made("/v1/aliases", **given)


def webhook(user: User, number: int) -> Row:
    return user.made("/v1/webhooks", function_id=listed_function(user), description="of a list")


def job(user: User, number: int) -> Row:
    given = {"pattern": f"{number} 0 1 1 *", "count": number + 1, "function_input": f"input {number}"}
    return user.made("/v1/jobs", function_id=listed_function(user), name=f"n{number}", **given)


def listed_function(user: User) -> str:
    """The function that the rows of these tests belong to."""
    found = user.get("/v1/functions", params={"name": "of the lists"}).json()
    return str(found[0]["id"]) if found else user.function(name="of the lists")


MINE = {"description": "of a list"}
KINDS = [
    Kind("runtimes", shapes.RUNTIME, runtime, MINE, frozenset({"name", "status"}), False),
    Kind("functions", shapes.FUNCTION, function, MINE, frozenset({"name"})),
    Kind("function_versions", shapes.VERSION, version, {"description": "v"}, frozenset({"version_number"}), False),
    Kind("executions", shapes.EXECUTION, execution, MINE, frozenset({"status"})),
    Kind("function_aliases", shapes.ALIAS, alias, MINE, frozenset({"name"}), path="/v1/aliases"),
    Kind("webhooks", shapes.WEBHOOK, webhook, MINE),
    Kind("jobs", shapes.JOB, job, {"name": "in:n1,n2,n3"}, frozenset({"name", "status"})),
]
# Neither of one value, nor kept: these are no filters.
UNFILTERED = {
    "code", "cors", "has_callback_secret", "methods", "rate_limit", "routing", "signature", "webhook_url",
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.envelope)
def listed(request: pytest.FixtureRequest, user: User) -> List:
    kind: Kind = request.param
    rows = [kind.make(user, number) for number in (1, 2, 3)]
    path = kind.path or f"/v1/{kind.envelope}"
    if kind.envelope == "function_versions":
        path = f"/v1/functions/{listed_function(user)}/versions"
    return List(kind, user, path, rows)


def ids(rows: list[Row]) -> list[str]:
    return [row["id"] for row in rows]


def test_a_list_is_a_bare_array_in_order_of_creation(listed: List) -> None:
    answer = listed.get()
    assert answer.headers["Content-Type"] == "application/json"
    shapes.check_all(listed.kind.shape, answer.json())
    assert answer.json() == listed.rows
    assert "Link" not in answer.headers


@pytest.mark.parametrize("agent", ["python-qinlingclient", "python-qinlingclient/5.1.1 keystoneauth1/5.6", "horizon"])
def test_the_reference_client_gets_an_envelope(listed: List, agent: str) -> None:
    answer = listed.get({"User-Agent": agent})
    assert answer.json() == {listed.kind.envelope: listed.rows}


def test_a_list_of_nothing_is_empty(listed: List) -> None:
    assert listed.get(id=NOBODY).json() == []
    assert listed.get(REFERENCE_CLIENT, id=NOBODY).json() == {listed.kind.envelope: []}


def test_pages_follow_each_other_by_their_links(listed: List) -> None:
    answer = listed.get(limit=1, sort_dir="desc")
    seen = answer.json()
    while "Link" in answer.headers:
        match = re.fullmatch(r'<(.*)>; rel="next"', answer.headers["Link"])
        assert match is not None
        assert match[1].startswith(listed.user.url + listed.path + "?")
        answer = listed.user.get(match[1].removeprefix(listed.user.url))
        assert len(answer.json()) == 1
        seen += answer.json()
    assert seen == listed.rows[::-1]


def test_an_envelope_names_the_next_page(listed: List) -> None:
    first = listed.get(REFERENCE_CLIENT, limit=2)
    assert first.headers["Link"] == f'<{first.json()["next"]}>; rel="next"'
    assert first.json()[listed.kind.envelope] == listed.rows[:2]
    rest = listed.user.get(first.json()["next"].removeprefix(listed.user.url), headers=REFERENCE_CLIENT)
    assert rest.json() == {listed.kind.envelope: listed.rows[2:]}


def test_a_marker_is_the_last_id_of_the_page_before(listed: List) -> None:
    assert listed.found(marker=listed.rows[0]["id"]) == listed.rows[1:]
    assert listed.found(marker=listed.rows[2]["id"]) == []
    for unknown in (NOBODY, "7"):
        error(listed.get(marker=unknown), 400, field="marker")


def test_lists_are_sorted_by_what_has_an_index(listed: List) -> None:
    for key in {"created_at", "updated_at"} | listed.kind.sort_keys:
        for direction, order in (("asc", 1), ("desc", -1)):
            found = listed.found(sort_key=key, sort_dir=direction)
            assert found == sorted(listed.rows, key=lambda row: row[key] or "")[::order]  # rows without one first
    for key in listed.kind.shape.keys() - {"created_at", "updated_at"} - listed.kind.sort_keys | {"colour"}:
        error(listed.get(sort_key=key), 400, field="sort_key")
    error(listed.get(sort_dir="up"), 400, field="sort_dir")


def test_every_shown_field_is_a_filter(listed: List) -> None:
    row = listed.rows[1]
    values = {name: value for name, value in row.items() if name not in UNFILTERED and value is not None}
    assert len(values) >= 6
    for name, value in values.items():
        expected = [other for other in listed.rows if other[name] == value]
        for text in (f"{value}", f"eq:{value}"):
            assert listed.found(**{name: text}) == expected, name
        rest = [other for other in listed.rows if other[name] != value]
        assert listed.found(**{name: f"neq:{value}"}) == rest, name
    assert listed.user.get(listed.path, params=values).json() == [row]


def test_fields_that_are_null_are_filters_too(listed: List) -> None:
    names = [name for name, value in listed.rows[0].items() if value is None and name not in UNFILTERED]
    for name in names:
        value = "2019-06-06 15:33:23" if name.endswith(("_at", "_time")) else "1"
        assert listed.found(**{name: value}) == []
        assert listed.found(**{name: f"neq:{value}"}) == listed.rows


def test_filters_have_operators(listed: List) -> None:
    first, second, third = listed.rows
    assert listed.found(id=f"in:{first['id']},{third['id']}") == [first, third]
    assert listed.found(id=f"nin:{first['id']},{third['id']}") == [second]
    assert listed.found(id=f"has:{second['id'][3:30]}") == [second]
    low, middle, high = sorted(ids(listed.rows))
    for text, expected in (
        (f"gt:{low}", {middle, high}),
        (f"gte:{middle}", {middle, high}),
        (f"lt:{middle}", {low}),
        (f"lte:{middle}", {low, middle}),
    ):
        assert set(ids(listed.found(id=text))) == expected


def test_times_are_filters_to_the_second(listed: List) -> None:
    at = listed.rows[1]["created_at"]
    assert listed.rows[1] in listed.found(created_at=at)
    assert listed.rows[1] in listed.found(created_at=f"gte:{at.replace(' ', 'T')}Z")
    for operator in ("gt", "lt"):
        assert listed.rows[1] not in listed.found(created_at=f"{operator}:{at}")
    assert listed.found(created_at="lt:2019-06-06 15:33:23") == []
    assert listed.found(created_at="gt:2019-06-06") == listed.rows
    error(listed.get(created_at="yesterday"), 400, field="created_at")


def test_an_unknown_filter_is_refused_unless_the_reference_client_sends_it(listed: List) -> None:
    for name in ("colour", *(UNFILTERED & listed.kind.shape.keys())):
        query: dict[str, Any] = {name: "red"}
        error(listed.get(**query), 400, "unknown filter", field=name)
        assert listed.get(REFERENCE_CLIENT, **query).json() == {listed.kind.envelope: listed.rows}


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "", "1.5", "1,2"])
def test_a_limit_is_a_number_from_1_on(listed: List, limit: str) -> None:
    error(listed.get(limit=limit), 400, field="limit")


def test_all_projects_is_true_or_false(listed: List) -> None:
    for text in ("true", "True", "1", "false", "no"):
        assert listed.found(all_projects=text) == listed.rows
    if listed.kind.shared:
        error(listed.get(all_projects="perhaps"), 400, field="all_projects")
    assert listed.found(project_id="default") == listed.rows
    assert listed.found(project_id="another") == []


def test_a_list_without_a_limit_is_bounded_but_for_the_reference_client(user: User, function_id: str) -> None:
    more = LIST_LIMIT_MAX + 1
    made = [user.made("/v1/webhooks", function_id=function_id) for _ in range(more)]
    query: dict[str, Any] = {"function_id": function_id}
    for limit, length in (({}, LIST_LIMIT), ({"limit": more}, LIST_LIMIT_MAX), ({"limit": 10**30}, LIST_LIMIT_MAX)):
        answer = user.get("/v1/webhooks", params=query | limit)
        assert answer.json() == made[:length]
        assert f"marker={made[length - 1]['id']}" in answer.headers["Link"]
    answer = user.get("/v1/webhooks", params=query, headers=REFERENCE_CLIENT)
    assert answer.json() == {"webhooks": made}
    assert "Link" not in answer.headers
    for row in made:
        assert user.delete(f"/v1/webhooks/{row['id']}").status_code == 204
