"""`GET /healthz` and `GET /readyz`: for whoever decides where requests go."""

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
    """The process can serve: its neighbours answer, and the pool works."""

    def __init__(self, services: Services):
        self._health = Health(services.checks)

    @operation(None, answers=shows(HealthShown), errors=(503,))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Ask whether the service's neighbours answer, for at most two seconds.

        Raises:
            Unavailable: naming the parts at fault, with the reason of each.
        """
        faults = self._health.faults()
        if faults:
            raise Unavailable(
                f"Not ready: {', '.join(faults)}.", errors={name: [reason] for name, reason in faults.items()}
            )
        answer(resp, {"status": "ok"})
