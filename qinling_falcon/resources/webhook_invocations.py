"""`/v1/webhooks/{id}/invoke`: deliveries to webhooks, from senders without a token."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import falcon

from qinling_falcon.invocation.cached_webhooks import CachedWebhook
from qinling_falcon.models import clock
from qinling_falcon.models.execution import Execution
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.resources.answers import accepted, answer_error
from qinling_falcon.resources.bodies import read_body
from qinling_falcon.resources.operation import accepts, operation
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.request_keys import REPLAYED
from qinling_falcon.resources.services import Services
from qinling_falcon.resources.webhook_inputs import input_of, whole_request
from qinling_falcon.schemas.webhooks import METHODS, WebhookAccepted
from qinling_falcon.settings import Settings
from qinling_falcon.turns import OneAtATime
from qinling_falcon.webhooks.cors import ANY_METHOD, cors_headers, preflight_headers
from qinling_falcon.webhooks.depth import HEADER as DEPTH_HEADER
from qinling_falcon.webhooks.depth import read_depth
from qinling_falcon.webhooks.responses import EXECUTION_ID_HEADER, Failure, respond

_INVOKE = "/invoke"
# To parse a body of this size takes up to about 10 ms.
_LARGE = 64 * 1024
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))


class WebhookInvocation:
    """The URL of a webhook, and the paths below it."""

    def __init__(self, services: Services):
        self._calls = services.webhook_calls
        self._settings = services.settings
        self._turns = OneAtATime()

    @operation(
        None,
        any_body=True,
        answers=accepts(WebhookAccepted, some_headers=(REPLAYED,)),
        otherwise="With `sync`: what the function answers.",
        errors=(401, 403, 404, 405, 408, 413, 415, 429, 502, 503, 504),
        cross_site="always",
    )
    def on_post(self, req: Request, resp: falcon.Response, webhook_id: str, path: str | None = None) -> None:
        """Deliver a request to a webhook.

        Its function runs later, and the execution is durable before the answer is sent. With `sync`, the answer is what
        the function returns. A webhook can also take other methods than POST.

        A repeated delivery with the same id gets the execution of the first one.
        """
        self._deliver(req, resp, webhook_id, path)

    @operation(None, cross_site="always", is_documented=False)
    def on_other(self, req: Request, resp: falcon.Response, webhook_id: str, path: str | None = None) -> None:
        """As `on_post`, for all other methods."""
        self._deliver(req, resp, webhook_id, path)

    @operation(None, cross_site="always", is_documented=False)
    def on_options(self, req: Request, resp: falcon.Response, webhook_id: str, path: str | None = None) -> None:
        """Answer a preflight if the webhook has `cors`. Any other request is a delivery."""
        method = req.get_header("Access-Control-Request-Method")
        webhook = None if method is None else self._calls.find(webhook_id)
        if webhook is None or not webhook.cors:
            self._deliver(req, resp, webhook_id, path)
            return
        methods = (ANY_METHOD,) if webhook.methods is None else webhook.methods
        origin, names = req.get_header("Origin"), req.get_header("Access-Control-Request-Headers")
        resp.set_headers(preflight_headers(webhook.cors, origin, method, names, methods))
        resp.status = falcon.HTTP_204

    def _deliver(self, req: Request, resp: falcon.Response, webhook_id: str, path: str | None) -> None:
        delivery = _Delivery(req, resp, path, self._settings, self._turns)
        delivered = self._calls.deliver(webhook_id, delivery)
        if delivered.is_replay:
            resp.set_header(REPLAYED, "true")
        if delivered.execution is not None:
            _respond(req, resp, delivered.execution, delivery.cors)
            return
        body = {"execution_id": delivered.execution_id}
        accepted(req, resp, f"/v1/executions/{delivered.execution_id}", self._settings.public_endpoint, body)


for _method in METHODS:
    if _method not in ("POST", "OPTIONS"):
        setattr(WebhookInvocation, f"on_{_method.lower()}", WebhookInvocation.on_other)


def _respond(
    req: Request, resp: falcon.Response, execution: ExecutionRecord | Execution, cors: dict[str, str]
) -> None:
    """Answer with what the function has returned."""
    response = respond(execution.status, execution.result, cors)
    if isinstance(response, Failure):
        answer_error(req, resp, response.status, response.message)
    else:
        resp.status = falcon.code_to_http_status(response.status)
        resp.set_headers(response.headers)
        resp.data = response.body
    resp.set_header(EXECUTION_ID_HEADER, execution.id)


class _Delivery:
    """A request to a webhook, as `WebhookCalls` reads it.

    Attributes:
        cors: the headers that let pages of other sites read the answer. They are set for errors, too.
    """

    __slots__ = (
        "_body", "_req", "_resp", "_settings", "_turns", "_webhook", "callback_depth", "cors", "has_subpath", "method",
        "received_at", "request_id",
    )  # fmt: skip

    def __init__(self, req: Request, resp: falcon.Response, path: str | None, settings: Settings, turns: OneAtATime):
        self._req = req
        self._resp = resp
        self._settings = settings
        self._turns = turns
        self._webhook: CachedWebhook | None = None
        self._body: bytes | None = None
        self.cors: dict[str, str] = {}
        self.method = req.method
        self.has_subpath = path is not None
        self.request_id = req.request_id
        self.received_at = clock.now()
        self.callback_depth = read_depth(self.header(DEPTH_HEADER))

    def set_webhook(self, webhook: CachedWebhook) -> None:
        """Set the webhook. The body then counts for its project, and the answer gets its CORS headers.

        So slow senders hold up no other project.
        """
        self._webhook = webhook
        self._req.caller = webhook.owner
        for name in self.cors:  # those of a stale webhook
            self._resp.delete_header(name)
        self.cors = cors_headers(webhook.cors, self.header("Origin"))
        if self.cors:
            self._resp.set_headers(self.cors)

    def header(self, name: str) -> str | None:
        """A header of the request."""
        value: str | None = self._req.env.get(f"HTTP_{name.replace('-', '_').upper()}")
        return value

    def body(self, limit: int) -> bytes:
        """The body. If it was read before, it is remembered. Raises as `read_body`."""
        if self._body is None:
            self._body = read_body(self._req, limit)
        return self._body

    def drop_body(self) -> None:
        """Release the body. `body` must not be called after this."""
        self._body = None

    def digest(self, body: bytes) -> str:
        """A digest of method, address and body: 32 hexadecimal digits."""
        env = self._req.env
        hashed = hashlib.sha256(f"{self.method} {env['PATH_INFO']}?{env['QUERY_STRING']}\n".encode())
        hashed.update(body)
        return hashed.hexdigest()[:32]

    def function_input(self, body: bytes) -> str | None:
        """The function's input. Raises as `input_of` and `whole_request`."""
        if len(body) <= _LARGE:
            return self._function_input(body)
        assert self._webhook is not None
        with self._turns.turn(self._webhook.owner.project_id):
            return self._function_input(body)

    def _function_input(self, body: bytes) -> str | None:
        assert self._webhook is not None
        env = self._req.env
        if self._webhook.pass_request:
            path = self._raw_subpath() if self.has_subpath else "/"
            return whole_request(self.method, path, env["QUERY_STRING"], self._req.headers, body)
        return input_of(env["QUERY_STRING"], env.get("CONTENT_TYPE"), body, self._settings.max_json_depth)

    def _raw_subpath(self) -> str:
        """The path below the webhook's URL as it was sent, percent-encoded."""
        env = self._req.env
        raw = env.get("RAW_URI", "").partition("?")[0].partition(_INVOKE)[2]
        if not raw.startswith("/"):  # the sender has encoded `invoke`, or the server has no RAW_URI
            raw = quote(env["PATH_INFO"].encode("latin-1").partition(_INVOKE.encode())[2])
        return quote(raw.encode("latin-1", "replace"), safe=_VISIBLE)
