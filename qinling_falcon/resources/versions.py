"""`GET /` and `GET /v1`: which API this is."""

from __future__ import annotations

import falcon

from qinling_falcon.resources.answers import answer, base_url
from qinling_falcon.resources.operation import operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.service import VersionsShown


class Versions:
    """The versions of the API; there is one."""

    def __init__(self, services: Services):
        self._public_endpoint = services.settings.public_endpoint

    @operation(None, answers=shows(VersionsShown))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Name the version of the API and where it is."""
        href = f"{base_url(req, self._public_endpoint)}/v1"
        link = {"href": href, "target": "v1", "rel": "self"}
        answer(resp, {"versions": [{"status": "CURRENT", "id": "v1.0", "links": [link]}]})
