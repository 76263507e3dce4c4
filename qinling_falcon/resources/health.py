"""`GET /healthz` and `GET /readyz`, for load balancers and process supervisors."""

from __future__ import annotations

import falcon

from qinling_falcon.errors import Unavailable
from qinling_falcon.observability.health import Health
from qinling_falcon.resources.answers import answer
from qinling_falcon.resources.operation import operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.service import HealthShown


class Liveness:
    """The process is up."""

    def __init__(self, services: Services):
        pass

    @operation(None, answers=shows(HealthShown))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Answer, which says that the process is up."""
        answer(resp, {"status": "ok"})


class Readiness:
    """Whether the process can serve: Redis, the database and Keystone answer, and the pool works."""

    def __init__(self, services: Services):
        self._health = Health(services.checks)

    @operation(None, answers=shows(HealthShown), errors=(503,))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Check all parts that the service needs, within about two seconds.

        Raises:
            Unavailable: a part has failed; the error names each failed part with its reason.
        """
        faults = self._health.faults()
        if faults:
            raise Unavailable(
                f"Not ready: {', '.join(faults)}.", errors={name: [reason] for name, reason in faults.items()}
            )
        answer(resp, {"status": "ok"})
