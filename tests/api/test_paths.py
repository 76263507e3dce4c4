"""Clients put their base URLs together in many ways; all of them arrive."""

from __future__ import annotations

import pytest

from qinling_falcon.api import canonical_path


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ("/", "/"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("//v1/functions", "/v1/functions"),
        ("/v1/v1/functions", "/v1/functions"),
        ("/v1//v1/functions", "/v1/functions"),
        ("/v1//functions", "/v1/functions"),
        ("/v1/v1", "/v1"),
        ("/v1/functions/", "/v1/functions"),
        ("/v1/functions//", "/v1/functions/"),
        ("/v1/aliases/v1", "/v1/aliases/v1"),
        ("/v1/v1/aliases/v1x", "/v1/aliases/v1x"),
        ("/v1x/functions", "/v1x/functions"),
        ("/v1/v1x", "/v1/v1x"),
        ("/healthz/", "/healthz"),
    ],
)
def test_a_path_is_served_as_its_canonical_form(given: str, served: str) -> None:
    assert canonical_path(given) == served
