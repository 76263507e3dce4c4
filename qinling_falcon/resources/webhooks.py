"""`/v1/webhooks`: URLs that run a function."""

from __future__ import annotations

import json
from typing import Any

import falcon

from qinling_falcon.models import clock
from qinling_falcon.models import webhook as webhooks
from qinling_falcon.models.listing import page
from qinling_falcon.models.rows import check_owner
from qinling_falcon.models.scope import scoped
from qinling_falcon.resources.answers import accepted, answer, base_url, created
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.lists import answer_list, answer_page, list_params, may_list_all
from qinling_falcon.resources.operation import accepts, lists, makes, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.webhooks import DeliveryShown, WebhookCreate, WebhookShown, WebhookUpdate
from qinling_falcon.settings import Settings

_create = WebhookCreate()
_update = WebhookUpdate()
_delivery = DeliveryShown()


class Webhooks:
    """All webhooks of a project."""

    def __init__(self, services: Services):
        self._policy = services.policy
        self._settings = services.settings

    @operation("webhook:create", takes=WebhookCreate, answers=makes(WebhookShown), errors=(404, 501))
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Make a webhook.

        It is one row: after a crash it is there or not.
        """
        values = _create.read(read_object(req, self._settings), lenient=req.reference_client)
        webhook = webhooks.create(req.caller, **values)
        body = _shown(req, self._settings).show(webhook)
        created(req, resp, body, f"/v1/webhooks/{webhook.id}", self._settings.public_endpoint)

    @operation("webhook:get_all", answers=lists("webhooks", WebhookShown, webhooks.LISTS, all_projects=True))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the project's webhooks, or for an admin those of all."""
        all_projects = may_list_all(req, self._policy, "webhook:get_all:all_projects")
        params = list_params(req, self._settings, webhooks.LISTS, all_projects=all_projects)
        found = page(scoped(req.caller, all_projects=all_projects).webhooks(), webhooks.LISTS, params)
        answer_page(req, resp, self._settings, "webhooks", found, _shown(req, self._settings))


class OneWebhook:
    """One webhook."""

    def __init__(self, services: Services):
        self._pool = services.pool
        self._settings = services.settings

    @operation("webhook:get", answers=shows(WebhookShown))
    def on_get(self, req: Request, resp: falcon.Response, webhook_id: str) -> None:
        """Show a webhook."""
        answer(resp, _shown(req, self._settings).show(webhooks.get(req.caller, webhook_id)))

    @operation("webhook:update", takes=WebhookUpdate, answers=accepts(WebhookShown), errors=(501,))
    def on_put(self, req: Request, resp: falcon.Response, webhook_id: str) -> None:
        """Change a webhook. The change applies to every delivery that begins after the answer.

        After a crash, it is made or not, and no process caches the webhook until the mark of the change expires.
        """
        changes = _update.read(read_object(req, self._settings), lenient=req.reference_client)
        webhook = webhooks.get(req.caller, webhook_id)
        check_owner(req.caller, webhook, "change")
        if changes:
            with self._pool.changing(webhooks.cache_key(webhook_id)):
                webhook = webhooks.update(req.caller, webhook_id, changes)
        body = _shown(req, self._settings).show(webhook)
        accepted(req, resp, f"/v1/webhooks/{webhook_id}", self._settings.public_endpoint, body)

    @operation("webhook:delete")
    def on_delete(self, req: Request, resp: falcon.Response, webhook_id: str) -> None:
        """Delete a webhook, and the log of its deliveries.

        After a crash, the webhook is deleted or not. A log that is left expires after a week.
        """
        check_owner(req.caller, webhooks.get(req.caller, webhook_id), "delete")
        with self._pool.changing(webhooks.cache_key(webhook_id)):
            webhooks.delete(req.caller, webhook_id)
        self._pool.deliveries.forget(webhook_id)
        resp.status = falcon.HTTP_204


class Deliveries:
    """The deliveries to one webhook."""

    def __init__(self, services: Services):
        self._log = services.pool.deliveries
        self._settings = services.settings

    @operation("webhook:get", answers=lists("deliveries", DeliveryShown, None))
    def on_get(self, req: Request, resp: falcon.Response, webhook_id: str) -> None:
        """List the last 100 deliveries to a webhook of at most a week, the newest first.

        Refused ones take at most half of these places from accepted ones.

        An entry may be missing for up to a second after the delivery was answered, or for good if the process has
        crashed.
        """
        webhooks.get(req.caller, webhook_id)
        rows = [_LogEntry(**json.loads(entry)) for entry in self._log.logged(webhook_id)]
        rows.sort(key=lambda row: row.received_at, reverse=True)  # several processes have logged them
        answer_list(req, resp, self._settings, "deliveries", rows, _delivery)


class _LogEntry:
    """An entry of the log, as it is shown."""

    def __init__(self, received_at: int, **members: Any):
        self.received_at = clock.from_micros(received_at)
        self.__dict__.update(members)


def _shown(req: Request, settings: Settings) -> WebhookShown:
    return WebhookShown(base_url(req, settings.public_endpoint))
