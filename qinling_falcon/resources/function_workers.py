"""The workers of a function or of one version: list, add (scale up), end some (scale down) or end all (detach)."""

from __future__ import annotations

from dataclasses import dataclass

import falcon

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import function as functions
from qinling_falcon.models import version as versions
from qinling_falcon.resources.answers import accepted
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.function_versions import VERSION, parse_version
from qinling_falcon.resources.lists import answer_list
from qinling_falcon.resources.operation import accepts, lists, operation
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas import function_versions as schemas

_shown = schemas.WorkerShown()


@dataclass(frozen=True, slots=True)
class _Worker:
    function_id: str
    function_version: int
    worker_name: str


class FunctionWorkers:
    """The live workers that hold a function."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._pool = services.pool

    @operation(
        "function_worker:get_all",
        answers=lists("workers", schemas.WorkerShown, None),
        query=(("function_version", VERSION),),
    )
    def on_get(self, req: Request, resp: falcon.Response, function_id: str) -> None:
        """List the workers of version 0, or of `function_version`."""
        number = _version_asked_for(req)
        _find(req, function_id, number)
        workers = [_Worker(function_id, number, name) for name in self._pool.workers(function_id, number)]
        answer_list(req, resp, self._settings, "workers", workers, _shown)


class Detach:
    """The function's workers go."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._pool = services.pool

    @operation("function:detach", answers=accepts())
    def on_post(self, req: Request, resp: falcon.Response, function_id: str, version: str = "0") -> None:
        """End the workers of a function, each after the call that it may have; the next call gets a fresh one.

        One script does it: after a crash it is done or not, and it can be asked for again.
        """
        path = _named(req, function_id, version)
        self._pool.drain(function_id, parse_version(version))
        accepted(req, resp, path, self._settings.public_endpoint)


class DetachVersion(Detach):
    """The same, for one version."""

    @operation("function_version:detach", answers=accepts())
    def on_post(self, req: Request, resp: falcon.Response, function_id: str, version: str = "0") -> None:
        """End the workers of a version, as those of the function itself, which is version 0."""
        super().on_post(req, resp, function_id, version)


class ScaleUp:
    """Assigns more workers to the function."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._scaler = services.scaler
        self._body = schemas.ScaleUp(services.settings)

    @operation("function:scale_up", takes=schemas.ScaleUp, answers=accepts(), errors=(409, 501, 502))
    def on_post(self, req: Request, resp: falcon.Response, function_id: str, version: str = "0") -> None:
        """Add workers, which hold the function when the answer comes.

        What a crash leaves, `Scaler.scale_up` says.
        """
        values = self._body.read(read_object(req, self._settings), lenient=req.reference_client)
        path = _named(req, function_id, version)
        self._scaler.scale_up(req.caller, function_id, parse_version(version), values["count"])
        accepted(req, resp, path, self._settings.public_endpoint)


class ScaleUpVersion(ScaleUp):
    """The same, for one version."""

    @operation("function_version:scale_up", takes=schemas.ScaleUp, answers=accepts(), errors=(409, 501, 502))
    def on_post(self, req: Request, resp: falcon.Response, function_id: str, version: str = "0") -> None:
        """Add workers to a version, as to the function itself, which is version 0."""
        super().on_post(req, resp, function_id, version)


class ScaleDown:
    """Ends some workers of the function."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._scaler = services.scaler
        self._body = schemas.ScaleDown()

    @operation("function:scale_down", takes=schemas.ScaleDown, answers=accepts())
    def on_post(self, req: Request, resp: falcon.Response, function_id: str, version: str = "0") -> None:
        """End workers of a function, but never the last one.

        One script does it.
        """
        values = self._body.read(read_object(req, self._settings), lenient=req.reference_client)
        path = _named(req, function_id, version)
        self._scaler.scale_down(function_id, parse_version(version), values["count"])
        accepted(req, resp, path, self._settings.public_endpoint)


class ScaleDownVersion(ScaleDown):
    """The same, for one version."""

    @operation("function_version:scale_down", takes=schemas.ScaleDown, answers=accepts())
    def on_post(self, req: Request, resp: falcon.Response, function_id: str, version: str = "0") -> None:
        """End workers of a version, as those of the function itself, which is version 0."""
        super().on_post(req, resp, function_id, version)


def _named(req: Request, function_id: str, version: str) -> str:
    """The path of what the request names, which is there; of version 0 the function's own."""
    number = parse_version(version)
    _find(req, function_id, number)
    path = f"/v1/functions/{function_id}"
    return f"{path}/versions/{number}" if number else path


def _find(req: Request, function_id: str, number: int) -> None:
    functions.get(req.caller, function_id)
    if number != 0:
        versions.get(req.caller, function_id, number)


def _version_asked_for(req: Request) -> int:
    unknown = sorted(req.params.keys() - {"function_version"})
    if unknown and not req.reference_client:
        message = f"Unknown filter: {', '.join(unknown)}. Known is function_version."
        raise BadRequest(message, errors={name: ["unknown filter"] for name in unknown})
    text = req.params.get("function_version", "0")
    if not isinstance(text, str):
        raise BadRequest("function_version was given more than once.", errors={"function_version": ["Given twice."]})
    return parse_version(text, "function_version")
