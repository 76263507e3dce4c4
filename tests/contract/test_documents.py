"""The API document and its page, as a browser gets them."""

from __future__ import annotations

import re

import pytest

from tests.contract.service import User, error
from tests.openapi.promises import Promises

pytestmark = pytest.mark.xdist_group("contract")


def test_GET_openapi_json_answers_200(user: User) -> None:
    answer = user.get("/openapi.json")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    document = answer.json()
    assert document["openapi"] == "3.1.0"
    shown = user.get("/v1/runtimes")
    Promises(document).check("GET", "/v1/runtimes", shown.status_code, shown.headers, shown.content)


def test_GET_docs_answers_200(user: User) -> None:
    answer = user.get("/docs")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'(?:src|href|data-url)="([^"]+)"', answer.text)
    assert len(links) == 5
    for link in links:
        assert user.get(link).status_code == 200


def test_the_page_runs_the_scripts_and_styles_of_this_service_alone(user: User) -> None:
    answer = user.get("/docs")
    parts = [part.partition(" ") for part in answer.headers["Content-Security-Policy"].split("; ")]
    policy = {name: sources for name, _, sources in parts}
    assert policy.pop("img-src") == "'self' data:"
    assert {policy.pop(name) for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy.keys() == {"default-src", "frame-ancestors", "base-uri", "form-action"}
    assert set(policy.values()) == {"'none'"}
    # By which a browser would refuse these, were they in it.
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?:", answer.text)
    for link in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json"):
        assert user.get(link).headers["X-Content-Type-Options"] == "nosniff"


def test_GET_docs_file_answers_200(user: User) -> None:
    answer = user.get("/docs/swagger-ui-bundle.js")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert "SwaggerUIBundle" in answer.text


@pytest.mark.parametrize("name", ["none.js", "../app.py", "..%2f..%2fapp.py", "%2e%2e", "swagger-ui.css.map", "x%00y"])
def test_other_files_are_not_served(user: User, name: str) -> None:
    answer = user.get(f"/docs/{name}")
    error(answer, 400 if "%00" in name else 404)


def test_what_a_client_has_is_not_sent_again(user: User) -> None:
    for path in ("/openapi.json", "/docs", "/docs/start.js"):
        tag = user.get(path).headers["ETag"]
        answer = user.get(path, headers={"If-None-Match": tag})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
        assert user.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
