"""Middleware: request ids, large answers, authentication and policy."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import falcon
from marshmallow import ValidationError

from qinling_falcon.auth.authenticator import Authenticator
from qinling_falcon.auth.policy import Policy
from qinling_falcon.errors import BadRequest, Unavailable
from qinling_falcon.resources.open_answers import SMALL, OpenAnswer, OpenAnswers
from qinling_falcon.resources.operation import operations_of
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.unfinished import Arriving
from qinling_falcon.schemas.fields import parse_uuid
from qinling_falcon.schemas.strict_json import check_text
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.responses import EXECUTION_ID_HEADER

logger = logging.getLogger(__name__)


class RequestIds:
    """Sets the headers of all answers: `X-Request-Id`, and `X-Content-Type-Options: nosniff`."""

    def process_response(self, req: Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        """Set the headers, also on error answers, and log the request at level debug."""
        resp.set_header("X-Request-Id", req.request_id)
        resp.set_header("X-Content-Type-Options", "nosniff")
        if logger.isEnabledFor(logging.DEBUG):
            taken_ms = round((time.perf_counter() - req.started) * 1000, 3)
            about = {"method": req.method, "path": req.path, "status": resp.status_code, "taken_ms": taken_ms}
            logger.debug("request", extra={"request_id": req.request_id, **about})


class LargeAnswers:
    """Sends large bodies in pieces and counts them as open answers.

    Args:
        open_answers: counts and limits the open answers.
    """

    def __init__(self, open_answers: OpenAnswers):
        self._open_answers = open_answers

    def process_request(self, req: Request, resp: falcon.Response) -> None:
        """Give resources access to the open answers."""
        req.open_answers = self._open_answers

    def process_response(self, req: Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        """Count a large body as an open answer. Bodies without a caller are shared constants and need no counting.

        Raises:
            Unavailable: too many answers are open. The request itself was carried out.
        """
        data = resp.data
        if data is None or len(data) <= SMALL or req.method == "HEAD" or not hasattr(req, "caller"):
            return
        try:
            room = self._open_answers.open(req, memory=len(data))
        except Unavailable as error:
            # A webhook also runs its function for GET.
            if req.method == "GET" and resp.get_header(EXECUTION_ID_HEADER) is None:
                raise
            # No Retry-After, because a client that retries would, for example, run the function a second time.
            place = resp.get_header("Location")
            where = f" The result can be read at {place}." if place else ""
            raise Unavailable(f"The request was carried out.{where} {error.message}") from None
        resp.data = None
        resp.content_length = len(data)
        resp.stream = OpenAnswer(room, iter([data]))


class Caller:
    """Authenticates the caller, enforces the policy of the operation, and checks the ids in the path."""

    def __init__(self, authenticator: Authenticator, policy: Policy, settings: Settings):
        self._authenticator = authenticator
        self._policy = policy
        self._rules: dict[object, dict[str, str]] = {}
        self._reference_client = re.compile(settings.list_envelope_agents)
        self._arriving = Arriving(settings)

    def guard(self, resource: object) -> None:
        """Register the policies of a resource's operations. A resource whose operations name none is open."""
        operations = operations_of(resource)
        rules = {method: found.rule for method, found in operations.items() if found.rule is not None}
        if rules and rules.keys() != operations.keys():
            raise TypeError(f"{type(resource).__name__}: all of its methods are open, or none")
        if rules:
            self._rules[resource] = rules

    def process_resource(self, req: Request, resp: falcon.Response, resource: object, params: dict[str, Any]) -> None:
        """Set `req.identity` and `req.caller`, unless the resource is open.

        Raises:
            Unauthorized: the request has no valid credentials.
            Forbidden: the policy does not allow the operation.
            Unavailable: the credentials can't be validated at the moment.
            BadRequest: an id in the path is not a UUID, or a name in the path contains invalid text.
        """
        agent = req.env.get("HTTP_USER_AGENT")
        req.reference_client = agent is not None and self._reference_client.search(agent) is not None
        req.arriving = self._arriving
        rules = self._rules.get(resource)
        if rules is not None:
            req.identity = self._authenticator.authenticate(req.env)
            req.caller = req.identity.context
            rule = rules.get(req.method)
            if rule is not None:  # else Falcon answers 405, or OPTIONS
                self._policy.enforce(req.caller, rule)
        for name, value in params.items():
            if name.endswith("_id"):
                try:
                    params[name] = parse_uuid(value)
                except ValidationError as error:
                    raise BadRequest(f"{name}: {error.messages[0]}") from None
            else:
                check_text(value, name, name)
