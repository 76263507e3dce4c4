"""Large answers over the API are counted until they are closed, and slow readers of one project don't block others."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.invocation.worker_client import Ran
from qinling_falcon.models import clock, job
from qinling_falcon.models.database import transact
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.resources import open_answers
from qinling_falcon.resources.open_answers import Cost, OpenAnswers
from tests.api.client import Client, assert_error, package
from tests.api.fake_engine import FakeClient, FakeEngine

OWN = Context("default", is_admin=True)
NOTHING = Cost(0, 0, 0)
LARGE = "x" * 100_000


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_answers, "STALLED_S", 60.0)
    monkeypatch.setattr(open_answers, "WAIT_S", 0.05)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> OpenAnswers:
    """Limits for apps that are made later: two answers of a project, three of all projects."""
    made = OpenAnswers(Cost(64 * 1024 * 1024, 64 * 1024 * 1024, 4))
    monkeypatch.setattr(OpenAnswers, "from_settings", lambda settings: made)
    return made


@pytest.fixture
def client(bounds: OpenAnswers, client_with: Callable[..., Client]) -> Client:
    return client_with()


def ask(client: Client, path: str, method: str = "GET", **environ: Any) -> tuple[Any, Callable[[], bytes]]:
    """An answer as the WSGI server gets it, before its first piece is read."""
    path, _, query = path.partition("?")
    env = testing.create_environ(path, query_string=query, method=method, host="127.0.0.1", **environ)
    body = client.app(env, testing.StartResponseMock())

    def whole() -> bytes:
        try:
            return b"".join(body)
        finally:
            getattr(body, "close", lambda: None)()

    return body, whole


def make_executions(count: int, **fields: Any) -> list[str]:
    ids = []
    for number in range(count):
        at = clock.now()
        function_id = str(uuid.UUID(int=number))
        values: dict[str, Any] = {"project_id": "default", "function_id": function_id, "status": "success"}
        ids.append(f"00000000-0000-4000-8000-{number:012}")
        record(ExecutionRecord(id=ids[-1], created_at=at, updated_at=at, **(values | fields)))
    return ids


@pytest.fixture
def paths(client: Client) -> dict[str, str]:
    """The paths of one large answer of each kind."""
    [execution, *_] = make_executions(4, result=LARGE, log=LARGE)
    function = client.function(package=package(f"# {LARGE}"))
    for _ in range(3):
        transact(
            lambda: job.Job.insert(
                id=str(uuid.uuid4()),
                project_id="default",
                function_id=function["id"],
                function_input=LARGE,
                first_execution_time=clock.now(),
                next_execution_time=clock.now(),
            ).execute()
        )
    return {
        "list": "/v1/executions",
        "jobs": "/v1/jobs",
        "one": f"/v1/executions/{execution}",
        "log": f"/v1/executions/{execution}/log",
        "package": f"/v1/functions/{function['id']}?download=true",
    }


KINDS = ["list", "jobs", "one", "log", "package"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_counted_until_it_is_closed(
    client: Client, bounds: OpenAnswers, paths: dict[str, str], kind: str
) -> None:
    expected = client.simulate_get(paths[kind]).content
    assert bounds.held() == NOTHING
    body, whole = ask(client, paths[kind])
    assert bounds.held().answers == 1
    assert whole() == expected
    assert bounds.held() == NOTHING
    body, _ = ask(client, paths[kind])
    next(iter(body))
    body.close()
    assert bounds.held() == NOTHING


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_request_holds_nothing(client: Client, bounds: OpenAnswers, paths: dict[str, str], kind: str) -> None:
    ask(client, paths[kind], "HEAD")
    assert bounds.held() == NOTHING
    got, head = client.simulate_get(paths[kind]), client.simulate_head(paths[kind])
    assert head.headers.get("content-length") == got.headers.get("content-length")


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_a_project_may_have_are_refused_and_others_served(
    client: Client, bounds: OpenAnswers, paths: dict[str, str], kind: str, act_as: Callable[[Context], None]
) -> None:
    held = [ask(client, paths["log"]) for _ in range(2)]
    answer = client.simulate_get(paths[kind])
    assert_error(answer, 503, "large answers", "try again")
    assert answer.headers["retry-after"]
    act_as(Context("another", is_admin=True))
    assert client.simulate_get(paths["one"]).status_code == 200
    assert client.simulate_get("/v1/jobs").json == []
    act_as(OWN)
    held[0][1]()
    assert client.simulate_get(paths[kind]).status_code == 200


def test_small_answers_are_not_counted(client: Client, bounds: OpenAnswers, paths: dict[str, str]) -> None:
    held = [ask(client, paths["log"]) for _ in range(2)]
    assert client.simulate_get("/v1/runtimes/" + client.runtime()).status_code == 200
    function = client.function()
    answer = client.simulate_post("/v1/executions", json={"function_id": function["id"]})
    assert answer.status_code == 201
    assert len(held) == bounds.held().answers


def test_a_call_whose_answer_finds_no_room_says_where_its_result_is(
    client: Client, bounds: OpenAnswers, paths: dict[str, str], engine: FakeEngine
) -> None:
    function = client.function()
    held = [ask(client, paths["log"]) for _ in range(2)]
    answer = client.simulate_post("/v1/executions", json={"function_id": function["id"], "input": "y" * 30_000})
    assert_error(answer, 503, "was carried out", "/v1/executions/")
    assert "retry-after" not in answer.headers
    del held
    place = answer.headers["location"]
    assert place in answer.json["faultstring"]
    shown = client.simulate_get(place[place.index("/v1/") :])
    assert (shown.status_code, shown.json["input"]) == (200, "y" * 30_000)


def test_a_delivery_by_GET_whose_answer_finds_no_room_is_not_to_be_repeated(
    client: Client, bounds: OpenAnswers, paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran("success", None, json.dumps({"duration": 0.1, "output": "y" * 30_000}), "", 0.1)
    monkeypatch.setattr(FakeClient, "execute", lambda *args: ran)
    webhook = {"function_id": client.function()["id"], "methods": ["GET"], "sync": True}
    webhook_id = client.simulate_post("/v1/webhooks", json=webhook).json["id"]
    held = [ask(client, paths["log"]) for _ in range(2)]
    answer = client.simulate_get(f"/v1/webhooks/{webhook_id}/invoke")
    assert_error(answer, 503, "was carried out")
    assert "retry-after" not in answer.headers
    del held
    assert client.simulate_get(f"/v1/executions/{answer.headers['x-execution-id']}").json["webhook_id"] == webhook_id


def test_a_list_holds_a_chunk_at_a_time(client: Client, bounds: OpenAnswers) -> None:
    make_executions(40, result="\u00fc" * 100_000)
    body, _ = ask(client, "/v1/executions")
    most, size = 0, 0
    pieces: Iterator[bytes] = iter(body)
    text = b""
    for piece in pieces:
        most = max(most, bounds.held().memory)
        size += len(piece)
        text += piece
    body.close()
    assert [row["id"][-2:] for row in json.loads(text)] == [f"{number:02}" for number in range(40)]
    # A chunk is bounded by the bytes of its texts; JSON has 6 bytes for an ü, which are 2.
    assert size > 20_000_000
    assert most < 4_000_000
