"""The page of the API, where users reach the service by another address than its own."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.api.client import Client


def test_the_page_finds_its_files_behind_a_proxy_that_takes_a_prefix_away(
    client: Client, client_with: Callable[..., Client]
) -> None:
    behind = client_with(public_endpoint="https://engine.example/qinling/")
    for path in ("/docs", "/docs/"):
        links = re.findall(r'(?:src|href|data-url)="([^"]+)"', behind.simulate_get(path).text)
        assert len(links) == 5
        for link in links:
            assert link.startswith("/qinling/")
            assert client.simulate_get(link.removeprefix("/qinling").partition("?")[0]).status_code == 200
