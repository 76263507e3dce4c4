"""The Falcon app: its routes, its middleware, and the format of errors."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import falcon

from qinling_falcon.auth.authenticator import make_authenticator
from qinling_falcon.errors import QinlingError
from qinling_falcon.openapi.document import write
from qinling_falcon.resources import (
    aliases,
    documents,
    execution_retries,
    executions,
    function_versions,
    function_workers,
    functions,
    health,
    jobs,
    pool,
    quotas,
    runtimes,
    versions,
    webhook_invocations,
    webhooks,
)
from qinling_falcon.resources.answers import answer_error
from qinling_falcon.resources.any_method import Router
from qinling_falcon.resources.browsers import BrowserGuard
from qinling_falcon.resources.middleware import Caller, LargeAnswers, RequestIds
from qinling_falcon.resources.open_answers import OpenAnswers
from qinling_falcon.resources.proxies import TrustedProxies
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)


class ApiDocument(documents.ApiDocument):
    """The document of all routes, this one too."""

    def __init__(self, services: Services):
        super().__init__(lambda: write(ROUTES, services.settings))


# A resource whose operations name no policy is served without authentication. Path parameters whose names end in `_id`
# are UUIDs.
ROUTES: tuple[tuple[str, Callable[[Services], object]], ...] = (
    ("/", versions.Versions),
    ("/v1", versions.Versions),
    ("/healthz", health.Liveness),
    ("/readyz", health.Readiness),
    ("/openapi.json", ApiDocument),
    ("/docs", documents.DocsPage),
    ("/docs/{file_name}", documents.DocsFile),
    ("/v1/runtimes", runtimes.Runtimes),
    ("/v1/runtimes/{runtime_id}", runtimes.OneRuntime),
    ("/v1/runtimes/{runtime_id}/pool", runtimes.RuntimePool),
    ("/v1/functions", functions.Functions),
    ("/v1/functions/{function_id}", functions.OneFunction),
    ("/v1/functions/{function_id}/workers", function_workers.FunctionWorkers),
    ("/v1/functions/{function_id}/detach", function_workers.Detach),
    ("/v1/functions/{function_id}/scale_up", function_workers.ScaleUp),
    ("/v1/functions/{function_id}/scale_down", function_workers.ScaleDown),
    ("/v1/functions/{function_id}/versions", function_versions.FunctionVersions),
    ("/v1/functions/{function_id}/versions/{version}", function_versions.OneVersion),
    ("/v1/functions/{function_id}/versions/{version}/detach", function_workers.DetachVersion),
    ("/v1/functions/{function_id}/versions/{version}/scale_up", function_workers.ScaleUpVersion),
    ("/v1/functions/{function_id}/versions/{version}/scale_down", function_workers.ScaleDownVersion),
    ("/v1/aliases", aliases.Aliases),
    ("/v1/aliases/{alias_name}", aliases.OneAlias),
    ("/v1/executions", executions.Executions),
    ("/v1/executions/retry", execution_retries.ExecutionRetries),
    ("/v1/executions/{execution_id}", executions.OneExecution),
    ("/v1/executions/{execution_id}/log", executions.ExecutionLog),
    ("/v1/executions/{execution_id}/retry", execution_retries.ExecutionRetry),
    ("/v1/webhooks", webhooks.Webhooks),
    ("/v1/webhooks/{webhook_id}", webhooks.OneWebhook),
    ("/v1/webhooks/{webhook_id}/deliveries", webhooks.Deliveries),
    ("/v1/webhooks/{webhook_id}/invoke", webhook_invocations.WebhookInvocation),
    ("/v1/webhooks/{webhook_id}/invoke/{path:path}", webhook_invocations.WebhookInvocation),
    ("/v1/jobs", jobs.Jobs),
    ("/v1/jobs/{job_id}", jobs.OneJob),
    ("/v1/jobs/{job_id}/run", jobs.JobRun),
    ("/v1/quotas", quotas.Quotas),
    ("/v1/pool", pool.Pool),
    ("/v1/pool/workers", pool.PoolWorkers),
    ("/v1/pool/queues", pool.PoolQueues),
    ("/v1/pool/events", pool.PoolEvents),
    ("/v1/pool/executions/{execution_id}", pool.PoolExecution),
)

_PREFIX = re.compile(r"(?:/+v1)+(?=/|$)")


class Api(falcon.App[Request, falcon.Response]):
    """The WSGI application.

    Attributes:
        proxies: applies the `X-Forwarded-…` headers of trusted proxies; None: no proxy is trusted.
        stop: called once, when the process begins to stop: requests that wait for something to happen are answered.
        close: called once, when all requests have been served and the process is about to end.
    """

    proxies: TrustedProxies | None = None
    stop: Callable[[], None] = staticmethod(lambda: None)
    close: Callable[[], None] = staticmethod(lambda: None)

    def __call__(self, env: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request. Path and host are made canonical first."""
        env["PATH_INFO"] = canonical_path(env["PATH_INFO"])
        if self.proxies is not None:
            self.proxies.apply(env)
        return super().__call__(env, start_response)


def create_app(services: Services) -> Api:
    """The application, on these collaborators."""
    authenticator = make_authenticator(services.settings, services.policy)
    services = dataclasses.replace(services, checks={**services.checks, **authenticator.checks()})
    caller = Caller(authenticator, services.policy, services.settings)
    browsers = BrowserGuard(services.settings)
    large_answers = LargeAnswers(OpenAnswers.from_settings(services.settings))
    app = Api(request_type=Request, middleware=[RequestIds(), browsers, caller, large_answers], router=Router())
    if services.settings.proxy_networks:
        app.proxies = TrustedProxies(services.settings.proxy_networks)
    app.resp_options.default_media_type = falcon.MEDIA_JSON
    app.add_error_handler(Exception, _unexpected)
    app.add_error_handler(falcon.HTTPError, _falcon_error)
    app.add_error_handler(QinlingError, _our_error)
    for path, make in ROUTES:
        resource = _with_head(make(services))
        browsers.guard(resource)
        caller.guard(resource)
        app.add_route(path, resource)
    return app


def canonical_path(path: str) -> str:
    """`/v1/v1/…`, `//v1/…` and one trailing slash become `/v1/…`: clients put their base URLs together in many ways."""
    if path[:4] != "/v1/" or path[4:6] == "v1" or path[4:5] == "/":
        prefix = _PREFIX.match(path)
        if prefix:
            rest = path[prefix.end() :].lstrip("/")
            path = f"/v1/{rest}" if rest else "/v1"
    if len(path) > 1 and path[-1] == "/":
        return path[:-1]
    return path


def _with_head(resource: object) -> object:
    """The resource, serving HEAD wherever it serves GET: the same answer, of which Falcon leaves out the body."""
    on_get = getattr(resource, "on_get", None)
    if on_get is not None:
        vars(resource)["on_head"] = on_get
    return resource


def _our_error(req: Request, resp: falcon.Response, error: QinlingError, params: dict[str, Any]) -> None:
    resp.set_headers(error.headers)
    if error.retry_after_s is not None:
        resp.set_header("Retry-After", str(error.retry_after_s))
    if error.status >= 500:
        logger.warning("request refused", extra=_about(req) | {"status": error.status, "reason": error.message})
    answer_error(req, resp, error.status, error.message, error.errors)


def _falcon_error(req: Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    if error.headers is not None:
        resp.set_headers(error.headers)
    message = error.description or f"{error.title}: {req.method} {req.path}.{_advice(error)}"
    answer_error(req, resp, error.status_code, message)


def _advice(error: falcon.HTTPError) -> str:
    if isinstance(error, falcon.HTTPRouteNotFound):
        return " Paths begin with /v1, as /v1/functions does; /docs shows all of them."
    if isinstance(error, falcon.HTTPMethodNotAllowed) and error.headers is not None:
        return f" Allowed here: {dict(error.headers)['Allow']}."
    return ""


def _unexpected(req: Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    logger.error("unexpected error", extra=_about(req), exc_info=error)
    answer_error(req, resp, 500, f"Internal error; the log has it under request id {req.request_id}.")


def _about(req: Request) -> dict[str, str]:
    return {"request_id": req.request_id, "method": req.method, "path": req.path}
